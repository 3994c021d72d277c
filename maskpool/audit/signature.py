"""Infer the cause of a leak from only the vectors of a pipeline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch.nn.functional import cosine_similarity

from maskpool.audit.probes import Measured, Moved
from maskpool.audit.report import Finding
from maskpool.leaks import (
    DIVIDED_BY_WIDTH,
    MAX_OVER_PADS,
    MEAN_OVER_PADS,
    NAN_WHERE_PADDED,
    UNKNOWN_CAUSE,
    ZEROED_PADS,
    PaddingBug,
)
from maskpool.tolerances import PARALLEL, SAME_LINE, SAME_RATIO, VECTOR_CHANGE


def signature_finding(measured: Measured) -> Finding:
    """Infer the cause of a leak from the vectors, in a pipeline whose modules cannot be seen."""
    counts = Counter(text.texts[0] for text in measured.padded)
    moved = next((text for text in measured.padded if counts[text.texts[0]] > 1), measured.padded[0])
    a, b = moved.alone, moved.batched
    small = max(VECTOR_CHANGE, measured.floor) * float(a.norm())
    evidence = f"the vector of a text next to a longer one moves by {moved.size:.2g}"
    if not bool(moved.batched.isfinite().all()):
        return Finding(
            NAN_WHERE_PADDED,
            "the vector of a text next to a longer one is NaN or infinite, and finite alone",
            moved.size,
            moved.texts,
        )

    def finding(cause: PaddingBug, more: str) -> Finding:
        return Finding(cause, f"{evidence}; {more}", moved.size, moved.texts)

    if measured.inside:  # modules would have shown it
        return finding(UNKNOWN_CAUSE, "the modules that were seen do not say why")
    cosine = float(cosine_similarity(a, b, dim=0))
    if cosine > 1 - PARALLEL and float(b.norm()) < float(a.norm()):
        return finding(DIVIDED_BY_WIDTH, f"it keeps its direction and shrinks to {float(b.norm() / a.norm()):.2f}")
    batches = [text for text in measured.padded if text.texts[0] == moved.texts[0]]
    if bool((a < -small).any()) and all(
        bool((text.batched - text.alone.clamp(min=0)).abs().max() <= small) for text in batches
    ):
        return finding(ZEROED_PADS, "it is the vector of the text alone with every negative number made zero")
    partly_equal = bool(((b - a).abs() <= small).any())  # a mean moves every number
    if partly_equal and all(bool((text.batched >= text.alone - small).all()) for text in batches):
        return finding(MAX_OVER_PADS, "no number in it is smaller than in the vector of the text alone")
    if _is_mean_over_pads(batches, measured.threshold):
        return finding(
            MEAN_OVER_PADS, "longer companions move it as a mean over pads does: along one line, by 1 − n / width"
        )
    return finding(UNKNOWN_CAUSE, "its vectors do not show why")


_SPECIAL = 4  # at most so many tokens that a tokenizer adds to a text


def _is_mean_over_pads(batches: Sequence[Moved], threshold: float) -> bool:
    """Return whether vectors move along one line, as far as a mean over the pads of these widths moves them.

    A mean of n tokens and w − n equal pads differs from the mean of the tokens by (1 − n / w) times one vector. Words
    count as tokens, plus a few that a tokenizer may add.
    """
    moved = {text.texts: text for text in batches if text.size > threshold and len(text.texts) == 2}
    if len(moved) < 2:
        return False
    (first, second) = list(moved.values())[:2]
    move, other_move = first.batched - first.alone, second.batched - second.alone
    ratio = float(move.norm() / other_move.norm())
    counts = [[len(text.split()) for text in pair.texts] for pair in (first, second)]
    expected = [
        (1 - (counts[0][0] + more) / (counts[0][1] + more)) / (1 - (counts[1][0] + more) / (counts[1][1] + more))
        for more in range(_SPECIAL + 1)
        if all(pair[0] < pair[1] for pair in counts)
    ]
    straight = float(cosine_similarity(move, other_move, dim=0)) > 1 - SAME_LINE
    return straight and any(abs(ratio / expectation - 1) < SAME_RATIO for expectation in expected)
