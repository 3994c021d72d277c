"""What the vectors of a pipeline alone say about a leak."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch.nn.functional import cosine_similarity

from maskpool.audit.probes import Measured, Moved
from maskpool.audit.report import Finding
from maskpool.tolerances import PARALLEL, VECTOR_CHANGE


def signature_finding(measured: Measured) -> Finding:
    """Infer the cause of a leak from the vectors, in a pipeline whose modules cannot be seen."""
    counts = Counter(one.texts[0] for one in measured.padded)
    moved = next((one for one in measured.padded if counts[one.texts[0]] > 1), measured.padded[0])
    a, b = moved.alone, moved.there
    small = max(VECTOR_CHANGE, measured.floor) * float(a.norm())
    evidence = f"the vector of a text next to a longer one moves by {moved.size:.2g}"
    if not bool(moved.there.isfinite().all()):
        return Finding(
            "NaN where texts are padded",
            "the vector of a text next to a longer one is NaN or infinite, and finite alone",
            moved.size,
            moved.texts,
        )

    def finding(cause: str, more: str) -> Finding:
        return Finding(cause, f"{evidence}; {more}", moved.size, moved.texts)

    if measured.inside:  # its modules would have shown it
        return finding("padding of unknown cause", "the modules that were seen do not say why")
    cosine = float(cosine_similarity(a, b, dim=0))
    if cosine > 1 - PARALLEL and float(b.norm()) < float(a.norm()):
        return finding(
            "divided by the batch width", f"it keeps its direction and shrinks to {float(b.norm() / a.norm()):.2f}"
        )
    others = [one for one in measured.padded if one.texts[0] == moved.texts[0]]
    if bool((a < -small).any()) and all(
        bool((one.there - one.alone.clamp(min=0)).abs().max() <= small) for one in others
    ):
        return finding(
            "zeroed pads in a max", "it is the vector of the text alone with every negative number made zero"
        )
    still = bool(((b - a).abs() <= small).any())  # a mean would move every number
    if still and all(bool((one.there >= one.alone - small).all()) for one in others):
        return finding("max over pads", "no number in it is smaller than in the vector of the text alone")
    if _is_mean_over_pads(others, measured.threshold):
        return finding(
            "mean over pads", "longer companions move it as a mean over pads does: along one line, by 1 − n / width"
        )
    return finding("padding of unknown cause", "its vectors alone do not say why")


_SPECIAL = 4  # tokens that a tokenizer adds to a text, at most


def _is_mean_over_pads(others: Sequence[Moved], threshold: float) -> bool:
    """Whether vectors move along one line, as far as a mean over the pads of these widths takes them.

    A mean of n tokens and w − n equal pads is away from the mean of the tokens by (1 − n / w) times one vector. Words
    stand for tokens, with a few more that a tokenizer may add.
    """
    moved = {one.texts: one for one in others if one.size > threshold and len(one.texts) == 2}
    if len(moved) < 2:
        return False
    (first, second) = list(moved.values())[:2]
    one, other = first.there - first.alone, second.there - second.alone
    ratio = float(one.norm() / other.norm())
    counts = [[len(text.split()) for text in pair.texts] for pair in (first, second)]
    expected = [
        (1 - (counts[0][0] + more) / (counts[0][1] + more)) / (1 - (counts[1][0] + more) / (counts[1][1] + more))
        for more in range(_SPECIAL + 1)
        if all(pair[0] < pair[1] for pair in counts)
    ]
    straight = float(cosine_similarity(one, other, dim=0)) > 0.9999
    return straight and any(abs(ratio / want - 1) < 0.01 for want in expected)
