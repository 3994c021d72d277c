"""The audit: from a pipeline to a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from maskpool.audit.causes import (
    encoder_finding,
    hidden_tokens_finding,
    look_inside,
    pooling_finding,
    signature_finding,
    unpooled_end_finding,
)
from maskpool.audit.census import tell
from maskpool.audit.pipelines import Pipeline, evaluated, left_as_it_was
from maskpool.audit.probes import TEXTS, Measured, measure
from maskpool.audit.report import AuditReport, Finding, Verdict

_HALF = 1e-6  # numbers coarser than float32


def audit_padding(pipeline: object, texts: Sequence[str] | None = None) -> AuditReport:
    """Say whether padding changes a pipeline's vectors, and why.

    Each text is embedded alone, beside longer texts, shuffled and in batches of several sizes, and the vectors are
    compared, ‖a − b‖ / max(‖a‖, ‖b‖). What counts as a difference is measured on the same pipeline: the same texts
    beside others that are as long. Where torch modules run in this process, the audit watches what they are given and
    give, and names the cause. Nothing is written: modes, buffers and generators of random numbers are given back.

    Args:
        pipeline: A callable from a list of texts to an array of vectors, a ``SentenceTransformer``, a
            `maskpool.integrations.transformers.SentenceEmbedder`, or a tuple (model, tokenizer, pooling), the pooling a
            mode, a layer or a callable ``(token_embeddings, attention_mask)``.
        texts: At least three, of different lengths; None takes some short ones. The longest two are the companions
            that make the others be padded.

    Returns:
        Verdict, findings with their causes, evidence and fixes, and the figures.

    Raises:
        TypeError: ``pipeline`` is none, or ``texts`` holds something else than strings.
        ValueError: The pipeline raises, or gives anything but one row of finite numbers for each text.

    Example:
        >>> def embed(texts):  # the mean over the columns of a padded batch of letters
        ...     width = max(map(len, texts))
        ...     return torch.tensor([[sum(map(ord, text.ljust(width))) / width, 1.0] for text in texts])
        >>> report = audit_padding(embed)
        >>> report.verdict
        'leaks'
    """
    probe, chosen = Pipeline(pipeline), _checked(texts)
    with left_as_it_was(probe.modules), ExitStack() as modes:
        measured = measure(probe, chosen)
        findings = _nondeterminism(measured)
        if measured.loud and measured.training:
            modes.enter_context(evaluated([root for call in measured.alone.values() for root in call.roots]))
            measured = measure(probe, chosen)
        if not measured.loud and not measured.vacuous:
            findings += _findings(measured)
        notes = _notes(measured)
    verdict: Verdict = "leaks" if any(finding.leak for finding in findings) else "clean"
    if verdict == "clean" and (measured.loud or measured.vacuous or measured.doubtful):
        verdict = "unknown"
    largest = measured.padded[0].size if measured.padded else 0.0
    return AuditReport(
        probe.name,
        verdict,
        tuple(findings),
        largest,
        measured.floor,
        measured.threshold,
        _census(measured),
        notes,
        probe.calls,
    )


def assert_padding_invariant(pipeline: object, texts: Sequence[str] | None = None) -> None:
    """Fail a test where padding changes a pipeline's vectors.

    Args:
        pipeline: As for `audit_padding`.
        texts: The same.

    Raises:
        AssertionError: The verdict is not ``clean``; the message is the report.
        TypeError: As `audit_padding`.
        ValueError: The same.

    Example:
        >>> assert_padding_invariant(lambda texts: [[float(len(text)), 1.0] for text in texts])
    """
    report = audit_padding(pipeline, texts)
    if report.verdict != "clean":
        raise AssertionError(str(report))


def _checked(texts: Sequence[str] | None) -> list[str]:
    if texts is None:
        return list(TEXTS)
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"texts must be a list of strings, got {type(texts).__name__}")
    found = list(dict.fromkeys(texts))
    if len(found) < 3 or len({len(text) for text in found}) < 2:
        raise ValueError(
            f"texts must be at least three different ones, not all of one length, got {len(found)}: short ones, and a "
            "long one beside which they are padded"
        )
    return found


def _nondeterminism(measured: Measured) -> list[Finding]:
    if measured.repeated <= measured.step:
        return []
    training = ", ".join(sorted(measured.training))
    where = f"; in training mode: {training}" if training else ""
    evidence = f"two equal calls differ by {measured.repeated:.2g}{where}"
    return [Finding("non-determinism", evidence, measured.repeated)]


def _findings(measured: Measured) -> list[Finding]:
    found: list[Finding | None] = []
    coupled = measured.coupled
    if coupled is not None and not measured.rounded(coupled.size):
        evidence = f"beside others as long as itself, where nothing is padded, its vector moves by {coupled.size:.2g}"
        found.append(Finding("coupling through the batch", evidence, coupled.size, coupled.texts))
    if measured.cached is not None:
        size = measured.cached.size
        evidence = (
            f"asked for alone after it was padded, it keeps the padded vector; under a spelling of the same tokens it "
            f"has another, by {size:.2g}"
        )
        found.append(Finding("vectors cached from a padded run", evidence, size, measured.cached.texts))
    found.append(hidden_tokens_finding(measured))
    moved = measured.padded[0].size > measured.threshold
    inside = look_inside(measured)
    if inside:
        seen = inside[0]
        padded_alone = measured.alone[seen.moved.texts[0]].tokens[0].ids.shape[1] > seen.length
        if moved or padded_alone or measured.precision > _HALF:
            found.append(encoder_finding(seen))
        named = [finding.cause for finding in found if finding is not None]
        if "pad token is end-of-text" not in named:
            found.append(unpooled_end_finding(seen))
        if (moved or padded_alone) and "all-ones mask" not in named:  # its pooling got that mask as well
            found.append(pooling_finding(seen, moved, bool(named)))
    if moved and not measured.doubtful and not any(finding is not None for finding in found):
        found.append(signature_finding(measured))
    return [finding for finding in found if finding is not None]


def _census(measured: Measured) -> str:
    """What the padding census says of the first model of transformers that ran, alone or inside another module."""
    calls = measured.alone.values()
    seen = [*(one.module for call in calls for one in call.tokens), *(root for call in calls for root in call.roots)]
    for outer in seen:
        for module in outer.modules():
            config: Any = getattr(module, "config", None)
            if isinstance(getattr(config, "model_type", None), str):
                return tell(config)
    return ""


def _notes(measured: Measured) -> tuple[str, ...]:
    notes = []
    if measured.vacuous:
        notes.append("all texts get the same vector, so nothing can be said of padding")
    if not measured.cache_checked:
        notes.append("whether vectors come from a cache was not checked: no other spelling makes the same tokens")
    if measured.doubtful:
        notes.append(
            f"the largest difference, {measured.padded[0].size:.1e}, may be rounding in half precision: run it in "
            "float32"
        )
    if not measured.inside:
        notes.append("no torch module was seen with token ids in this process, so causes are told from vectors alone")
    elif not look_inside(measured) and not measured.padded[0].size > measured.threshold:
        notes.append("no text was seen padded: the pipeline runs each alone, or packs them, or cuts all to one length")
    return tuple(notes)
