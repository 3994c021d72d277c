"""Audit a pipeline: probe it, find causes, decide on a verdict."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from torch import nn

from maskpool.audit.census import describe
from maskpool.audit.encoder_causes import encoder_finding, is_dynamically_quantised
from maskpool.audit.end_of_text import hidden_tokens_finding, unpooled_end_finding
from maskpool.audit.evidence import ROUNDING, doubt
from maskpool.audit.opening import open_pipeline
from maskpool.audit.pipelines import Pipeline, evaluated, restoring
from maskpool.audit.pooling_causes import exact_finding, pooling_finding
from maskpool.audit.probes import TEXTS, Measured, difference, measure
from maskpool.audit.report import AuditReport, Finding, Verdict
from maskpool.audit.rows import cut_finding, mixed_up_finding, state_finding
from maskpool.audit.seen import look_inside, never_padded
from maskpool.audit.signature import signature_finding
from maskpool.encoder import check_texts
from maskpool.errors import InvalidValueError, rename_arguments
from maskpool.leaks import (
    ALL_ONES_MASK,
    CACHED_VECTORS,
    COUPLING,
    DYNAMIC_QUANTISATION,
    MASK_OF_OTHER_TOKENS,
    NON_DETERMINISM,
    PAD_IS_END_OF_TEXT,
    UNKNOWN_CAUSE,
)
from maskpool.tolerances import COARSER_THAN_FLOAT32, SAME_VECTOR

MAX_TEXTS = 32


def audit_padding(
    pipeline: object, texts: Sequence[str] | None = None, *, on_call: Callable[[int], None] | None = None
) -> AuditReport:
    """Say whether padding changes a pipeline's vectors, and why.

    Each text is embedded alone, next to longer texts, shuffled and in batches of several sizes, and the vectors are
    compared by ‖a − b‖ / max(‖a‖, ‖b‖). The noise floor is measured on the same pipeline: the same texts next to
    others of the same length. If torch modules run in this process, the audit watches their inputs and outputs, and
    names the cause. It changes nothing: modes, buffers and random states are restored.

    The verdict is ``clean`` only if the run could have shown a leak: a text was seen with different numbers of pads, or
    was compared with its own unpadded run, or texts of different lengths ran without any pads and their vectors are
    poolings of the token states that were seen. Otherwise the verdict is ``unknown``, and a note says why and what
    would settle it.

    Args:
        pipeline: A callable from a list of texts to an array of vectors, a ``SentenceTransformer``, a
            `maskpool.integrations.transformers.SentenceEmbedder`, or a tuple (model, tokenizer, pooling), the pooling a
            mode, a layer or a callable ``(token_embeddings, attention_mask)``. Also the name or folder of a model,
            which is opened without running code from it.
        texts: At least three texts of different lengths; None takes short ones. The longest two are the companions
            that cause the padding. Of more than ``MAX_TEXTS`` = 32, a sample with a fixed seed is taken.
        on_call: Called after each call of the pipeline with the number of calls so far.

    Returns:
        Verdict, findings with their causes, evidence and fixes, and the figures.

    Raises:
        InvalidTypeError: ``pipeline`` has another type, or ``texts`` does not hold strings.
        InvalidValueError: The pipeline raises, or does not return one row of numbers per text, or returns NaN or
            infinity for a text alone.
        MaskpoolError: A name or folder cannot be opened.

    See Also:
        `assert_padding_invariant`: the same as a check for test suites.
        `maskpool.pads.explain`: what the pads of a model are.

    Example:
        >>> def embed(texts):  # the mean over the columns of a padded batch of letters
        ...     width = max(map(len, texts))
        ...     return torch.tensor([[sum(map(ord, text.ljust(width))) / width, 1.0] for text in texts])
        >>> report = audit_padding(embed)
        >>> report.verdict
        'leaks'
    """
    chosen, total = (list(TEXTS), len(TEXTS)) if texts is None else check_audited_texts(texts, MAX_TEXTS)
    if isinstance(pipeline, str | os.PathLike):
        with rename_arguments({"name": "pipeline", "name_or_path": "pipeline"}):
            pipeline = open_pipeline(os.fspath(pipeline))
    probe = Pipeline(pipeline, on_call)
    with restoring(probe.modules), ExitStack() as modes:
        measured = measure(probe, chosen)
        findings = find_nondeterminism(probe, measured)
        seeded = bool(measured.training) and all("Dropout" in name for name in measured.training) and not findings
        if seeded:
            names = ", ".join(sorted(measured.training))
            findings.append(Finding(NON_DETERMINISM, f"in training mode: {names}", measured.padded[0].size))
        if (measured.loud and measured.training) or seeded:
            modes.enter_context(evaluated([root for call in measured.alone.values() for root in call.roots]))
            measured = measure(probe, chosen)
        if not measured.loud and not measured.vacuous:
            findings += find_causes(measured)
        leaks = any(finding.leak for finding in findings)
        why = "" if leaks else doubt(measured, random=bool(findings))
        notes = ([why] if why else []) + _notes(measured, len(chosen), total, leaks)
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
    """Fail a test unless padding leaves the vectors of a pipeline unchanged.

    Args:
        pipeline: As in `audit_padding`.
        texts: As in `audit_padding`.

    Raises:
        AssertionError: The verdict is ``leaks`` or ``unknown``; the message is the report.
        MaskpoolError: As in `audit_padding`.

    Example::

        assert_padding_invariant((model, tokenizer, "mean"))
    """
    __tracebackhide__ = True  # pytest then shows the line of the test
    report = audit_padding(pipeline, texts)
    if report.verdict != "clean":
        raise AssertionError(str(report))


def check_audited_texts(texts: Sequence[str], most: int) -> tuple[list[str], int]:
    """Return the texts to audit with, a sample of many, and the number of different texts that were passed."""
    unique = list(dict.fromkeys(check_texts(texts)))
    if len(unique) < 3 or len({len(text) for text in unique}) < 2:
        raise InvalidValueError(
            "texts",
            f"must hold at least three different texts of different lengths, got {len(unique)}: short ones, and a long "
            "one next to which they are padded",
        )
    if len(unique) <= most:
        return unique, len(unique)
    *others, middle, longest = sorted(unique, key=len)
    return [*random.Random(0).sample(others, most - 2), middle, longest], len(unique)


def find_nondeterminism(probe: Pipeline, measured: Measured) -> list[Finding]:
    """Report whether equal calls give different vectors."""
    if measured.repeated <= measured.step:
        return []
    if (state := state_finding(probe, measured)) is not None:
        return [state]
    training = ", ".join(sorted(measured.training))
    where = f"; in training mode: {training}" if training else ""
    evidence = f"two equal calls differ by {measured.repeated:.2g}{where}"
    return [Finding(NON_DETERMINISM, evidence, measured.repeated)]


def find_causes(measured: Measured) -> list[Finding]:
    """Report what makes vectors depend on padding or on other texts."""
    if (mixed_up := mixed_up_finding(measured)) is not None:  # other probes cannot judge such rows
        return [mixed_up]
    candidates: list[Finding | None] = []
    coupled = measured.coupled
    if coupled is not None and not measured.rounded(coupled.size):
        evidence = f"next to others of its length, where nothing is padded, its vector moves by {coupled.size:.2g}"
        quantised = [
            f"{name} ({type(module).__module__}.{type(module).__name__})"
            for root in _roots(measured)
            for name, module in root.named_modules()
            if is_dynamically_quantised(module)
        ]
        if quantised:
            evidence += f"; {len(quantised)} modules are quantised dynamically, such as {quantised[0]}"
        elif not _roots(measured):
            evidence += (
                "; dynamic quantisation does this as well, as of an ONNX graph in int8, whose modules are not seen"
            )
        cause = DYNAMIC_QUANTISATION if quantised else COUPLING
        candidates.append(Finding(cause, evidence, coupled.size, coupled.texts))
    if measured.cached is not None:
        size = measured.cached.size
        evidence = (
            "embedded alone after it was padded, it keeps the padded vector; under another spelling of the same tokens "
            f"it has another, by {size:.2g}"
        )
        candidates.append(Finding(CACHED_VECTORS, evidence, size, measured.cached.texts))
    candidates += [hidden_tokens_finding(measured), cut_finding(measured)]
    moved = measured.padded[0].size > measured.threshold
    inside = look_inside(measured)
    for seen in {id(seen.alone.module): seen for seen in reversed(inside)}.values():  # the worst text of each encoder
        padded_alone, moves = seen.moved.texts[0] in measured.own_unpadded, seen.moved.size > measured.threshold
        half = measured.precision > COARSER_THAN_FLOAT32
        if moves or padded_alone or half:
            candidates.append(encoder_finding(seen, measured.precision))
        named = [finding.bug for finding in candidates if finding is not None]
        if PAD_IS_END_OF_TEXT not in named:
            candidates.append(unpooled_end_finding(seen))
        # The pooling gets a wrong mask as well.
        if (moves or padded_alone) and not {ALL_ONES_MASK, MASK_OF_OTHER_TOKENS} & set(named):
            candidates.append(pooling_finding(seen, measured, moves, bool(named)))
        elif half and not named:  # a leak may be smaller than rounding in half precision
            candidates.append(exact_finding(seen, measured))
    first = {finding.bug: finding for finding in reversed(candidates) if finding is not None}
    findings = [finding for finding in candidates if finding is not None and first[finding.bug] is finding]
    if not findings and moved and not measured.doubtful:
        findings.append(signature_finding(measured))
    if not findings:
        findings += _other_unpadded(measured)
    return findings


def _other_unpadded(measured: Measured) -> list[Finding]:
    """Report texts that are padded even alone, and whose vector changes without these pads."""
    for text, own in measured.own_unpadded.items():
        alone = next((moved.alone for moved in measured.padded if moved.texts[0] == text), None)
        if own.vector is None or alone is None:
            continue
        size = difference(alone, own.vector)
        if size > max(measured.threshold, SAME_VECTOR) and not measured.rounded(size):
            pads = sum(width - (real.stop - real.start) for width, real in own.columns.items())
            evidence = f"alone it is padded by {pads} columns; without them its vector moves by {size:.2g}"
            return [Finding(UNKNOWN_CAUSE, evidence, size, (text,))]
    return []


def _roots(measured: Measured) -> list[nn.Module]:
    return list(dict.fromkeys(root for call in measured.alone.values() for root in call.roots))


def _census(measured: Measured) -> str:
    """Describe the census row of the first model of transformers that ran, also inside another module."""
    calls = measured.alone.values()
    seen = [
        *(tokens.module for call in calls for tokens in call.tokens),
        *(root for call in calls for root in call.roots),
    ]
    for outer in seen:
        for module in outer.modules():
            config: Any = getattr(module, "config", None)
            if isinstance(getattr(config, "model_type", None), str):
                return describe(config)
    return ""


def _notes(measured: Measured, chosen: int, total: int, leaks: bool) -> list[str]:
    notes = []
    if chosen < total:
        notes.append(f"a sample of {chosen} of {total} texts was audited, drawn with seed 0, including the longest two")
    if not measured.cache_checked:
        notes.append("whether vectors come from a cache was not checked: no other spelling gives the same tokens")
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
