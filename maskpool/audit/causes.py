"""From what was measured to the cause: which formula made the vector, and where pads entered the encoder."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from maskpool.audit.probes import SMALLEST, Moved, difference
from maskpool.audit.report import Finding
from maskpool.audit.states import CLEAN, LEAK, relative
from maskpool.audit.trace import TokenCall, watch
from maskpool.modules import LearnedPooling
from maskpool.modules.build import POOLINGS, build_pooling

if TYPE_CHECKING:
    from maskpool.audit.probes import Measured

_SAME_VECTOR = 2e-3
_ADDITIVE = "additive mask taken for a multiplicative one"


@dataclass(frozen=True)
class Seen:
    """One text alone and in a padded batch, as the modules saw it.

    Attributes:
        moved: The text and its vectors.
        alone: The call for it alone.
        there: Its row of the padded batch.
        start: The column at which its tokens begin there.
    """

    moved: Moved
    alone: TokenCall
    there: TokenCall
    start: int
    pooled: tuple[Tensor, ...] = ()

    @property
    def length(self) -> int:
        """Real tokens."""
        return self.alone.ids.shape[1]

    @property
    def width(self) -> int:
        """Padded length."""
        return self.there.ids.shape[1]

    @property
    def real(self) -> Tensor:
        """(1, width), True at real tokens."""
        columns = torch.arange(self.width, device=self.there.ids.device)
        return ((columns >= self.start) & (columns < self.start + self.length)).unsqueeze(0)

    def at_real(self, states: Tensor) -> Tensor:
        """The states of real tokens."""
        return states[:, self.start : self.start + self.length]


def look_inside(measured: Measured) -> list[Seen]:
    """Texts whose tokens could be followed into a padded batch, the one that moved most first."""
    found = []
    for moved in measured.padded:
        alone, there = measured.alone.get(moved.texts[0]), measured.beside.get(moved.texts)
        if alone is None or there is None or not alone.tokens:
            continue
        one = alone.tokens[0].row(0).without_pads()
        place = there.find(one.ids[0].tolist())
        if place is None or place[0].ids.shape == one.ids.shape:
            continue
        number = next(
            row for call in there.tokens for row, ids in enumerate(call.ids.tolist()) if ids == place[0].ids[0].tolist()
        )
        pooled = tuple(vectors[number] for vectors in there.pooled if number < len(vectors))
        found.append(Seen(moved, one, *place, pooled))
    return found


def pooling_finding(seen: Seen, moved: bool, named: bool) -> Finding | None:
    """The formula that made the vector, where it reads pads.

    Args:
        seen: A text in a padded batch.
        moved: Whether its vector is another one there, so that pads are read although no formula is known.
        named: Whether the encoder is known to leak, which may be why it moves.
    """
    states = seen.there.states
    if states is None:
        return None
    x, real = states[0].double().cpu(), seen.real[0].cpu()
    made = [seen.moved.there, *(vector.double().cpu() for vector in seen.pooled)]
    clean = [formula() for formula in _formulas(x[real]).values()]
    texts, shape = seen.moved.texts, f"{seen.length} real tokens in {seen.width} columns"
    for vector in made:  # the pipeline's own first; modules behind the pooling may have changed it
        if any(_same(vector, right) for right in clean):
            return None
        for cause, candidates in _leaks(x, real).items():
            if cause == "zeroed pads in a max" and not moved:  # what a rectifier gives as well
                continue
            for formula, candidate in candidates.items():
                if _same(vector, candidate) or (cause == _ADDITIVE and _parallel(vector, candidate)):
                    apart = min(difference(vector, right) for right in clean if right.shape == vector.shape)
                    size = seen.moved.size if moved else apart
                    more = (
                        "it moves by" if moved else "alone it is padded as well; any pooling of real tokens is away by"
                    )
                    evidence = f"the vector of the padded text is {formula} ({shape}); {more} {size:.2g}"
                    return Finding(cause, evidence, size, texts)
    if moved and not named:
        size = seen.moved.size
        evidence = f"its token states are the same in the padded batch ({shape}), its vector moves by {size:.2g}"
        return Finding("pads read by the pooling", evidence, size, texts)
    return None


def _formulas(x: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Every pooling without parameters of some rows."""
    mask = torch.ones(1, len(x), dtype=torch.int64)
    modes = [
        mode
        for mode, layer in POOLINGS.items()
        if mode not in ("topk_mean", "softmax") and not issubclass(layer, LearnedPooling)
    ]
    return {mode: (lambda mode=mode: build_pooling(mode)(x.unsqueeze(0), mask)[0]) for mode in modes}  # type: ignore[misc]


def _leaks(x: Tensor, real: Tensor) -> dict[str, dict[str, Tensor]]:
    """By cause, what each wrong formula gives."""
    every = {name: f() for name, f in _formulas(x).items()}
    left = not bool(real[0])
    first = {"the first column": x[0]} if left else {}
    last = {"the last column": x[-1]} if not left else {}
    others = set(every) - {"mean", "max", "cls", "lasttoken"}
    return {
        "mean over pads": {"the mean of all columns": every["mean"]},
        "divided by the batch width": {"the sum of real tokens, divided by the width": x[real].sum(dim=0) / len(x)},
        "zeroed pads in a max": {"the maximum of real tokens and zero": x[real].amax(dim=0).clamp(min=0)},
        "max over pads": {"the maximum of all columns": every["max"]},
        "first column taken as cls": first,
        "last column taken as last token": last,
        _ADDITIVE: {
            "the mean of the pads": x[~real].mean(dim=0),
            "the sum of the pads": x[~real].sum(dim=0),
            "the maximum of the pads": x[~real].amax(dim=0),
        },
        "pads read by the pooling": {f"{name} over all columns": every[name] for name in sorted(others)},
    }


def _same(vector: Tensor, candidate: Tensor) -> bool:
    """Whether two vectors are equal, or have one direction where the first has length 1."""
    if vector.shape != candidate.shape or not bool(candidate.isfinite().all()):
        return False
    if difference(vector, candidate) < _SAME_VECTOR:
        return True
    unit = abs(float(vector.norm()) - 1) < 1e-3 and float(candidate.norm()) > 0
    return unit and difference(vector, candidate / candidate.norm()) < _SAME_VECTOR


def _parallel(vector: Tensor, candidate: Tensor) -> bool:
    """Whether one is a multiple of the other: sums over an additive mask are scaled by what stands in it."""
    return vector.shape == candidate.shape and abs(float(cosine_similarity(vector, candidate, dim=0))) > 1 - 1e-6


def encoder_finding(seen: Seen) -> Finding | None:
    """How pads reach real tokens inside the encoder; None where they do not."""
    size = _states_difference(seen)
    if size is None or size <= CLEAN:
        return None
    # Text by text and in more digits: what companions do otherwise is another finding, and noise is none.
    half = seen.alone.states is not None and seen.alone.states.element_size() < 4
    try:
        finer = copy.deepcopy(seen.there.module)
        finer = finer.float() if half else finer.double()
    except Exception:  # a stranger's module: locks, quantised weights, too large for a copy
        finer = seen.there.module
    finer_seen = replace(seen, alone=replace(seen.alone, module=finer), there=replace(seen.there, module=finer))
    exact = _states_difference(finer_seen, again=True)
    if exact is not None:
        seen, size = finer_seen, exact
    if size <= LEAK:
        return None
    shape = f"{seen.length} real tokens in {seen.width} columns"
    moved = f"token states of real tokens move by {size:.2g} of their root mean square ({shape})"
    mask, real = seen.there.mask, seen.real

    def finding(cause: str, evidence: str) -> Finding:
        return Finding(cause, f"{moved}; {evidence}", size, seen.moved.texts)

    name = seen.there.mask_name
    if name is not None:
        cured = _cured(seen, **{name: ~real if "padding_mask" in name else real.to(torch.int64)})
        if mask is None and cured:
            return finding("mask not passed to the encoder", f"{name} was not given; given, they stay")
        if mask is not None and mask.shape == real.shape:
            values = mask[0].float()
            if bool((mask == 1).all()) and cured:
                return finding(
                    "all-ones mask", f"{name} is 1 at all {seen.width} columns; with the right one they stay"
                )
            if bool((mask[0].bool() != real[0]).any()) and (float(values.min()) < 0 or cured):
                given = sorted(set(values.tolist()))
                return finding(
                    "additive mask taken for a multiplicative one",
                    f"{name} holds {given}, and 1 must mean a real token",
                )
    if seen.start:
        for convention, first in (("from 0", 0), ("from behind the pad's id", int(seen.there.ids[0, 0]) + 1)):
            columns = torch.arange(seen.width, device=real.device).unsqueeze(0) - seen.start
            positions = columns.clamp(min=0) + first
            if _cured(seen, position_ids=positions):
                return finding(
                    "position ids under left padding",
                    f"with position_ids that count real tokens {convention}, they stay",
                )
    module, kind = _culprit(seen)
    where = (
        f"the first module that turns equal inputs into other outputs is {module}"
        if module
        else "no module is to blame"
    )
    if _reads_no_pad(seen):
        where = f"other ids under the mask change nothing, so that places, or the number of pads, move them; {where}"
        return finding(
            "position ids under left padding" if seen.start else "pads reach real tokens inside the encoder", where
        )
    if kind is None and module is not None:
        kind = _kind_by_reach(seen)
    if kind is not None:
        return finding(kind, where)
    if name is None or _is_ignored(seen, name):
        return finding("mask ignored inside the encoder", f"without the mask they are the same; {where}")
    return finding("pads reach real tokens inside the encoder", where)


def _reads_no_pad(seen: Seen) -> bool:
    """Whether other ids under the mask leave real tokens as they are, so that places alone can move them."""
    if "input_ids" not in seen.there.arguments:
        return False
    others = torch.where(seen.real, seen.there.ids, seen.there.ids[0, seen.start])
    there, other = _again(seen.there), _again(seen.there, input_ids=others)
    return there is not None and other is not None and _agree(seen.at_real(there), seen.at_real(other))


def _is_ignored(seen: Seen, name: str) -> bool:
    """Whether the padded batch has the same states under a mask of ones."""
    given, ones = _again(seen.there), _again(seen.there, **{name: torch.ones_like(seen.there.ids)})
    return given is not None and ones is not None and _agree(given, ones)


def _states_difference(seen: Seen, again: bool = False) -> float | None:
    """The largest difference of a real token's states, relative to their root mean square; None if there is none."""
    alone, there = (_again(seen.alone), _again(seen.there)) if again else (seen.alone.states, seen.there.states)
    if alone is None or there is None:
        return None
    found = relative(alone, seen.at_real(there))
    return None if math.isnan(found) else found


def _again(call: TokenCall, **changed: object) -> Tensor | None:
    try:
        return call.again(**changed)
    except Exception:  # a stranger's module that does not take the arguments; then nothing is said of them
        return None


def _cured(seen: Seen, **changed: Tensor) -> bool:
    """Whether real tokens have the states of the text alone when some arguments are changed."""
    there, other = _again(seen.there, **changed), _again(seen.alone)
    return there is not None and other is not None and _agree(other, seen.at_real(there))


def _agree(one: Tensor, other: Tensor) -> bool:
    finest = torch.finfo(one.dtype).eps
    return relative(one, other) <= max(LEAK, 40 * finest)


_CONVOLUTION, _STATE = "convolution across pads", "recurrent state through pads"
_NORM, _MASK = "normalisation over positions", "mask ignored inside the encoder"
_KINDS: tuple[tuple[str, tuple[type[nn.Module], ...], tuple[str, ...]], ...] = (
    (_STATE, (nn.RNNBase, nn.RNNCellBase), ("mamba", "rwkv", "lstm", "gru", "recurrent", "ssm", "statespace", "lru")),
    (_CONVOLUTION, (nn.modules.conv._ConvNd,), ("conv",)),
    (
        _NORM,
        (nn.modules.batchnorm._NormBase, nn.GroupNorm),
        ("batchnorm", "instancenorm", "groupnorm", "norm"),
    ),
    (_MASK, (nn.MultiheadAttention, nn.TransformerEncoderLayer), ("attention", "attn")),
)


def _kind(module: nn.Module) -> str | None:
    name = type(module).__name__.lower()
    for kind, types, _ in _KINDS:
        if isinstance(module, types):
            return kind
    return next((kind for kind, _, words in _KINDS if any(word in name for word in words)), None)


def _culprit(seen: Seen) -> tuple[str | None, str | None]:
    """The innermost module whose inputs are equal at real tokens and whose outputs are not, and what kind it is."""
    alone: dict[tuple[int, int], tuple[list[Tensor], list[Tensor]]] = {}
    counts: Counter[int] = Counter()
    guilty: list[nn.Module] = []

    def keep(module: nn.Module, given: list[Tensor], gave: list[Tensor]) -> None:
        counts[id(module)] += 1
        alone[id(module), counts[id(module)]] = [t.clone() for t in given], [t.clone() for t in gave]

    def compare(module: nn.Module, given: list[Tensor], gave: list[Tensor]) -> None:
        counts[id(module)] += 1
        before = alone.get((id(module), counts[id(module)]))
        if guilty or before is None:
            return
        if _equal(seen, before[0], given) and _equal(seen, before[1], gave) is False:
            guilty.append(module)

    with torch.no_grad(), watch(keep):
        _again(seen.alone)
    counts.clear()
    with torch.no_grad(), watch(compare):
        _again(seen.there)
    if not guilty:
        return None, None
    names = {id(module): name for name, module in seen.there.module.named_modules()}
    name = names.get(id(guilty[0]), "")
    return f"{name} ({type(guilty[0]).__name__})" if name else type(guilty[0]).__name__, _kind(guilty[0])


def _equal(seen: Seen, alone: list[Tensor], there: list[Tensor]) -> bool | None:
    """Whether tensors agree at real tokens; None where none of them has any."""
    compared = [
        _agree(one, cut)
        for one, other in zip(alone, there, strict=False)
        if one.is_floating_point() and (cut := _cut(seen, one, other)) is not None
    ]
    return all(compared) if compared else None


def _cut(seen: Seen, alone: Tensor, there: Tensor) -> Tensor | None:
    """The part of a tensor of the padded run that stands for real tokens; None where no axis is that of positions."""
    if alone.ndim != there.ndim:
        return None
    axes = [axis for axis in range(alone.ndim) if alone.shape[axis] != there.shape[axis]]
    for axis in axes:
        if (alone.shape[axis], there.shape[axis]) != (seen.length, seen.width):
            return None
        there = there.narrow(axis, seen.start, seen.length)
    return there


def _kind_by_reach(seen: Seen) -> str | None:
    """From which real tokens the pads reach: those next to them alone, or all of them from one side alone."""
    alone, there = _again(seen.alone), _again(seen.there)
    if alone is None or there is None:
        return None
    scale = float(alone.double().square().mean().sqrt())
    moved = (alone.double() - seen.at_real(there).double()).abs().amax(dim=(0, 2)) / scale > LEAK
    if seen.start:
        moved = moved.flip(0)  # the pads stand before them
    reach = int(moved.flip(0).long().cumprod(0).sum())
    return _CONVOLUTION if reach == int(moved.sum()) and 0 < reach <= seen.length // 2 else None


def unpooled_end_finding(seen: Seen) -> Finding | None:
    """A pooling that leaves out a text's own tokens because they have the pad's id."""
    states, ids, real = seen.there.states, seen.there.ids[0].cpu(), seen.real[0].cpu()
    kept = real & (ids != ids[~real][0])
    if states is None or bool((kept == real).all()) or not bool(kept.any()):
        return None
    x = states[0].double().cpu()
    if any(_same(seen.moved.there, right()) for right in _formulas(x[real]).values()):
        return None
    formula = next((name for name, left in _formulas(x[kept]).items() if _same(seen.moved.there, left())), None)
    if formula is None:
        return None
    hidden = int(real.sum() - kept.sum())
    evidence = f"its vector is {formula} without {hidden} of its {seen.length} tokens, which have the pad's id"
    return Finding("pad token is end-of-text", evidence, hidden / seen.length, seen.moved.texts)


def hidden_tokens_finding(measured: Measured) -> Finding | None:
    """A mask that hides a token of a text that stands alone, where there is nothing to pad."""
    found = []
    for text, call in measured.alone.items():
        if not call.tokens or call.tokens[0].mask is None:
            return None
        one = call.tokens[0].row(0)
        mask = one.mask
        if mask is None or mask.shape != one.ids.shape or not set(mask.float().flatten().tolist()) <= {0.0, 1.0}:
            return None
        found.append((text, one.ids.shape[1], one.ids[0][mask[0] == 0].tolist()))
    # Where texts are padded to one width, or to multiples, the mask hides as many columns as that takes.
    counts, widths = {len(hidden) for _, _, hidden in found}, [width for _, width, _ in found]
    if len(counts) != 1 or 0 in counts or math.gcd(*widths) != 1:
        return None
    text, width, hidden = found[0]
    if len(set(hidden)) != 1 or len(hidden) == width:
        return None
    evidence = f"alone, where nothing is padded, the mask hides {len(hidden)} of {width} tokens, of id {hidden[0]}"
    return Finding("pad token is end-of-text", evidence, len(hidden) / width, (text,))


def signature_finding(measured: Measured) -> Finding:
    """The cause of a leak in a pipeline that does not let itself be looked into, from its vectors alone."""
    counts = Counter(one.texts[0] for one in measured.padded)
    moved = next((one for one in measured.padded if counts[one.texts[0]] > 1), measured.padded[0])
    a, b = moved.alone, moved.there
    small = max(SMALLEST, measured.floor) * float(a.norm())
    evidence = f"the vector of a text beside a longer one moves by {moved.size:.2g}"

    def finding(cause: str, more: str) -> Finding:
        return Finding(cause, f"{evidence}; {more}", moved.size, moved.texts)

    cosine = float(cosine_similarity(a, b, dim=0))
    if cosine > 1 - 1e-6 and float(b.norm()) < float(a.norm()):
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
    directions = [one.there - one.alone for one in others if one.size > measured.threshold]
    turned = [float(cosine_similarity(directions[0], one, dim=0)) for one in directions[1:]]
    if turned and min(turned) > 0.98:
        return finding("mean over pads", "longer companions move it further in one direction, as a mean over pads does")
    return finding("padding of unknown cause", "its vectors alone do not say why")
