"""The audit: from a pipeline to a verdict."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from torch import nn

from maskpool.audit.census import describe
from maskpool.audit.encoder_causes import QUANTISED, encoder_finding, is_dynamically_quantised
from maskpool.audit.end_of_text import hidden_tokens_finding, unpooled_end_finding
from maskpool.audit.evidence import ROUNDING, doubt
from maskpool.audit.opening import open_pipeline
from maskpool.audit.pipelines import Pipeline, evaluated, left_as_it_was
from maskpool.audit.pooling_causes import exact_finding, pooling_finding
from maskpool.audit.probes import TEXTS, Measured, difference, measure
from maskpool.audit.report import AuditReport, Finding, Verdict
from maskpool.audit.rows import cut_finding, mixed_up_finding, state_finding
from maskpool.audit.seen import look_inside, never_padded
from maskpool.audit.signature import signature_finding
from maskpool.encoder import check_texts
from maskpool.errors import InvalidValueError, rename_arguments
from maskpool.tolerances import COARSER_THAN_FLOAT32, SAME_VECTOR

MAX_TEXTS = 32


def audit_padding(
    pipeline: object, texts: Sequence[str] | None = None, *, on_call: Callable[[int], None] | None = None
) -> AuditReport:
    """Say whether padding changes a pipeline's vectors, and why.

    Each text is embedded alone, next to longer texts, shuffled and in batches of several sizes, and the vectors are
    compared, ‖a − b‖ / max(‖a‖, ‖b‖). What counts as a difference is measured on the same pipeline: the same texts
    next to others of the same length. Where torch modules run in this process, the audit watches their inputs and
    outputs, and names the cause. It writes nothing: modes, buffers and random states are restored.

    The verdict is ``clean`` only if the run could have shown a leak: a text was seen with different numbers of pads, or
    was compared with its own unpadded run, or texts of different lengths ran without any pads and their vectors are
    poolings of the token states that were seen. Otherwise the verdict is ``unknown``, and a note says why and what
    would settle it.

    Args:
        pipeline: A callable from a list of texts to an array of vectors, a ``SentenceTransformer``, a
            `maskpool.integrations.transformers.SentenceEmbedder`, or a tuple (model, tokenizer, pooling), the pooling a
            mode, a layer or a callable ``(token_embeddings, attention_mask)``. Also the name or folder of a model,
            which is opened without running code from it.
        texts: At least three, of different lengths; None takes some short ones. The longest two are the companions
            next to which the others are padded. Of more than ``MAX_TEXTS`` = 32 a sample with a fixed seed is taken.
        on_call: Called after each call of the pipeline with the number of calls so far.

    Returns:
        Verdict, findings with their causes, evidence and fixes, and the figures.

    Raises:
        TypeError: ``pipeline`` is something else, or ``texts`` holds something other than strings.
        ValueError: The pipeline raises, or does not give one row of numbers for each text, or gives NaN or infinity for
            a text alone.
        MaskpoolError: A name or folder cannot be opened.

    Example:
        >>> def embed(texts):  # the mean over the columns of a padded batch of letters
        ...     width = max(map(len, texts))
        ...     return torch.tensor([[sum(map(ord, text.ljust(width))) / width, 1.0] for text in texts])
        >>> report = audit_padding(embed)
        >>> report.verdict
        'leaks'
    """
    chosen, given = _checked(texts)
    if isinstance(pipeline, str | os.PathLike):
        with rename_arguments({"name": "pipeline", "name_or_path": "pipeline"}):
            pipeline = open_pipeline(os.fspath(pipeline))
    probe = Pipeline(pipeline, on_call)
    with left_as_it_was(probe.modules), ExitStack() as modes:
        measured = measure(probe, chosen)
        findings = _nondeterminism(probe, measured)
        seeded = bool(measured.training) and all("Dropout" in name for name in measured.training) and not findings
        if seeded:
            names = ", ".join(sorted(measured.training))
            findings.append(Finding("non-determinism", f"in training mode: {names}", measured.padded[0].size))
        if (measured.loud and measured.training) or seeded:
            modes.enter_context(evaluated([root for call in measured.alone.values() for root in call.roots]))
            measured = measure(probe, chosen)
        if not measured.loud and not measured.vacuous:
            findings += _findings(measured)
        leaks = any(finding.leak for finding in findings)
        why = "" if leaks else doubt(measured, random=bool(findings))
        notes = ([why] if why else []) + _notes(measured, len(chosen), given, leaks)
    verdict: Verdict = "leaks" if leaks else "unknown" if why else "clean"
    return AuditReport(
        probe.name,
        verdict,
        tuple(findings),
        measured.padded[0].size if measured.padded else 0.0,
        measured.floor,
        measured.threshold,
        _census(measured),
        tuple(notes),
        probe.calls,
    )


def assert_padding_invariant(pipeline: object, texts: Sequence[str] | None = None) -> None:
    """Fail a test where padding changes a pipeline's vectors.

    Args:
        pipeline: As for `audit_padding`.
        texts: The same.

    Raises:
        AssertionError: The verdict is not ``clean``, also where it is ``unknown``; the message is the report.
        TypeError: As `audit_padding`.
        ValueError: The same.

    Example::

        assert_padding_invariant((model, tokenizer, "mean"))
    """
    report = audit_padding(pipeline, texts)
    if report.verdict != "clean":
        raise AssertionError(str(report))


def _checked(texts: Sequence[str] | None) -> tuple[list[str], int]:
    """The texts to audit with, and how many different ones were given."""
    if texts is None:
        return list(TEXTS), len(TEXTS)
    found = list(dict.fromkeys(check_texts(texts)))
    if len(found) < 3 or len({len(text) for text in found}) < 2:
        raise InvalidValueError(
            "texts",
            f"must hold at least three different texts of different lengths, got {len(found)}: short ones, and a long "
            "one next to which they are padded",
        )
    if len(found) <= MAX_TEXTS:
        return found, len(found)
    *others, middle, longest = sorted(found, key=len)
    return [*random.Random(0).sample(others, MAX_TEXTS - 2), middle, longest], len(found)


def _nondeterminism(probe: Pipeline, measured: Measured) -> list[Finding]:
    if measured.repeated <= measured.step:
        return []
    if (state := state_finding(probe, measured)) is not None:
        return [state]
    training = ", ".join(sorted(measured.training))
    where = f"; in training mode: {training}" if training else ""
    evidence = f"two equal calls differ by {measured.repeated:.2g}{where}"
    return [Finding("non-determinism", evidence, measured.repeated)]


def _findings(measured: Measured) -> list[Finding]:
    if (mixed_up := mixed_up_finding(measured)) is not None:  # nothing else can be said of such rows
        return [mixed_up]
    found: list[Finding | None] = []
    coupled = measured.coupled
    if coupled is not None and not measured.rounded(coupled.size):
        evidence = f"next to others as long as itself, where nothing is padded, its vector moves by {coupled.size:.2g}"
        quantised = [
            f"{name} ({type(module).__module__}.{type(module).__name__})"
            for root in _roots(measured)
            for name, module in root.named_modules()
            if is_dynamically_quantised(module)
        ]
        if quantised:
            evidence += f"; {len(quantised)} modules are quantised dynamically, such as {quantised[0]}"
        cause = QUANTISED if quantised else "coupling through the batch"
        found.append(Finding(cause, evidence, coupled.size, coupled.texts))
    if measured.cached is not None:
        size = measured.cached.size
        evidence = (
            "embedded alone after it was padded, it keeps the padded vector; under another spelling of the same tokens "
            f"it has another, by {size:.2g}"
        )
        found.append(Finding("vectors cached from a padded run", evidence, size, measured.cached.texts))
    found += [hidden_tokens_finding(measured), cut_finding(measured)]
    moved = measured.padded[0].size > measured.threshold
    inside = look_inside(measured)
    for seen in {id(seen.alone.module): seen for seen in reversed(inside)}.values():  # of each encoder the worst text
        padded_alone, moves = seen.moved.texts[0] in measured.own_unpadded, seen.moved.size > measured.threshold
        half = measured.precision > COARSER_THAN_FLOAT32
        if moves or padded_alone or half:
            found.append(encoder_finding(seen, measured.precision))
        named = [finding.cause for finding in found if finding is not None]
        if "pad token is end-of-text" not in named:
            found.append(unpooled_end_finding(seen))
        # A wrong mask goes to the pooling as well.
        if (moves or padded_alone) and not {"all-ones mask", "mask of other tokens"} & set(named):
            found.append(pooling_finding(seen, measured, moves, bool(named)))
        elif half and not named:  # a leak may be smaller than what halves round
            found.append(exact_finding(seen, measured))
    first = {finding.cause: finding for finding in reversed(found) if finding is not None}
    findings = [finding for finding in found if finding is not None and first[finding.cause] is finding]
    if not findings and moved and not measured.doubtful:
        findings.append(signature_finding(measured))
    if not findings:
        findings += _other_unpadded(measured)
    return findings


def _other_unpadded(measured: Measured) -> list[Finding]:
    """Texts that are padded alone, and whose vector is another one without these pads."""
    for text, own in measured.own_unpadded.items():
        alone = next((moved.alone for moved in measured.padded if moved.texts[0] == text), None)
        if own.vector is None or alone is None:
            continue
        size = difference(alone, own.vector)
        if size > max(measured.threshold, SAME_VECTOR) and not measured.rounded(size):
            pads = sum(width - (real.stop - real.start) for width, real in own.columns.items())
            evidence = f"alone it is padded by {pads} columns; without them its vector moves by {size:.2g}"
            return [Finding("padding of unknown cause", evidence, size, (text,))]
    return []


def _roots(measured: Measured) -> list[nn.Module]:
    return list(dict.fromkeys(root for call in measured.alone.values() for root in call.roots))


def _census(measured: Measured) -> str:
    """What the padding census says of the first model of transformers that ran, alone or inside another module."""
    calls = measured.alone.values()
    seen = [*(one.module for call in calls for one in call.tokens), *(root for call in calls for root in call.roots)]
    for outer in seen:
        for module in outer.modules():
            config: Any = getattr(module, "config", None)
            if isinstance(getattr(config, "model_type", None), str):
                return describe(config)
    return ""


def _notes(measured: Measured, chosen: int, given: int, leaks: bool) -> list[str]:
    notes = []
    if chosen < given:
        notes.append(
            f"a sample of {chosen} of {given} texts was audited, drawn with seed 0, the longest two among them"
        )
    if not measured.cache_checked:
        notes.append("whether vectors come from a cache was not checked: no other spelling makes the same tokens")
    if leaks and measured.doubtful:
        notes.append(ROUNDING.format(measured.padded[0].size))
    if leaks and not measured.inside:
        notes.append(
            "no torch module was seen with token ids in this process, so causes are inferred from the vectors only"
        )
    inside = [] if leaks else look_inside(measured)
    if inside:
        tokens = sorted(seen.length for seen in inside)
        pads = max(seen.width - seen.length for seen in inside)
        notes.append(
            f"texts of {tokens[0]} to {tokens[-1]} tokens were seen with up to {pads} pads; a leak that begins beyond "
            "these numbers needs longer texts"
        )
    elif not leaks and never_padded(measured):
        notes.append("no text was seen padded: texts of different lengths run one by one, or packed into one row")
    return notes
