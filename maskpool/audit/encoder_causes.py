"""Find out why padding changes the token states of an encoder."""

from __future__ import annotations

import copy
import math
from collections import Counter
from dataclasses import replace

import torch
from torch import Tensor, nn

from maskpool.audit.edits import cut_columns, mapped
from maskpool.audit.report import Finding
from maskpool.audit.seen import Seen
from maskpool.audit.states import relative
from maskpool.audit.trace import OnModule, TokenCall, watch
from maskpool.leaks import (
    ADDITIVE_MASK,
    ALL_ONES_MASK,
    CONVOLUTION,
    DYNAMIC_QUANTISATION,
    MASK_IGNORED,
    MASK_NOT_PASSED,
    MASK_OF_OTHER_TOKENS,
    NAN_IN_ENCODER,
    NORMALISATION,
    OTHER_PATH,
    PADS_REACH_TOKENS,
    POSITION_IDS_BY_COLUMN,
    POSITION_IDS_ON_THE_LEFT,
    RECURRENT_STATE,
    PaddingBug,
)
from maskpool.tolerances import CLEAN, LEAK, OTHER_STATES, STATE_ROUNDINGS

_HIDES = -1e3  # added to a score, it hides a token


def encoder_finding(seen: Seen, precision: float = 0.0) -> Finding | None:
    """Find out how pads reach real tokens inside the encoder.

    Args:
        seen: A text in a padded row.
        precision: The spacing of numbers near 1 in the coarsest type that was seen.

    Returns:
        The finding; None if pads do not reach real tokens.
    """
    if seen.alone.states is None or seen.padded.states is None:
        return None
    if not seen.compared:
        return _content_finding(seen)
    if bool(seen.alone.states.isfinite().all()) and not bool(seen.at_real(seen.padded.states).isfinite().all()):
        module, _ = _culprit(seen, across=not _is_one_module(seen))
        evidence = f"token states of real tokens are NaN or infinite in the padded row ({seen.shape}), and finite alone"
        where = f"; first in {module}" if module else ""
        return Finding(NAN_IN_ENCODER, evidence + where, math.inf, seen.moved.texts)
    size = _states_difference(seen)
    if size is None or size <= CLEAN:
        return None
    if not _is_one_module(seen):
        return _across_modules(seen, size) if size > max(LEAK, STATE_ROUNDINGS * precision) else None
    # Without companions, whose effect is another finding, and in more digits, to exclude noise.
    half = seen.alone.states.element_size() < 4
    try:
        finer = copy.deepcopy(seen.padded.module)
        finer = finer.float() if half else finer.double()
    except Exception:  # locks, quantised weights, too large for a copy
        finer = seen.padded.module
    finer_seen = replace(seen, alone=replace(seen.alone, module=finer), padded=replace(seen.padded, module=finer))
    exact = _states_difference(finer_seen, again=True)
    if exact is not None:
        seen, size = finer_seen, exact
    return _within_module(seen, size) if size > LEAK else None


def _content_finding(seen: Seen) -> Finding | None:
    """Find out whether other ids at the pads move real tokens, in an encoder that cannot run without pads."""
    others = torch.where(seen.real, seen.padded.ids, seen.padded.ids[0, seen.start])
    name = _ids_name(seen.padded)
    if name is None:
        return None
    states, other_states = _again(seen.padded), _again(seen.padded, **{name: others})
    if states is None or other_states is None or _agree(seen.at_real(states), seen.at_real(other_states)):
        return None
    size = relative(seen.at_real(states), seen.at_real(other_states))
    mask = seen.padded.mask
    cause = PADS_REACH_TOKENS
    if seen.padded.mask_name is not None and mask is None:
        cause = MASK_NOT_PASSED
    elif mask is not None and bool((mask == 1).all()):
        cause = ALL_ONES_MASK
    evidence = f"other ids at the pads move the token states of real tokens by {size:.2g} ({seen.shape})"
    return Finding(cause, evidence, size, seen.moved.texts)


def _moved(seen: Seen, size: float) -> str:
    return f"token states of real tokens move by {size:.2g} of their root mean square ({seen.shape})"


def _within_module(seen: Seen, size: float) -> Finding:
    """Find the cause in an encoder that is one module, by running it again with other arguments."""
    mask, real = seen.padded.mask, seen.real

    def finding(cause: PaddingBug, evidence: str) -> Finding:
        return Finding(cause, f"{_moved(seen, size)}; {evidence}", size, seen.moved.texts)

    name = seen.padded.mask_name
    if name is not None:
        cured = _cured(seen, **{name: ~real if "padding_mask" in name else real.to(torch.int64)})
        if mask is None and cured:
            return finding(MASK_NOT_PASSED, f"{name} was not given; given, they stay")
        if mask is None and seen.start and "padding_mask" not in name and _cured(seen, **_with_positions(seen, name)):
            return finding(MASK_NOT_PASSED, f"{name} was not given; given together with position_ids, they stay")
        if mask is not None and mask.shape == real.shape:
            values = mask[0].float()
            if bool((mask == 1).all()) and cured:
                return finding(ALL_ONES_MASK, f"{name} is 1 at all {seen.width} columns; with the right one they stay")
            if bool((mask[0].bool() != real[0]).any()) and (float(values.min()) < 0 or cured):
                numbers = sorted(set(values.tolist()))
                if float(values.min()) < 0 or bool((mask[0].bool() == ~real[0]).all()):
                    return finding(ADDITIVE_MASK, f"{name} holds {numbers}, and 1 must mean a real token")
                wrong = int((mask[0].bool() != real[0]).sum())
                return finding(
                    MASK_OF_OTHER_TOKENS, f"{name} is wrong at {wrong} columns; with the right one they stay"
                )
    if _positions_differ(seen):
        return finding(POSITION_IDS_BY_COLUMN, "the position ids given for its tokens are not those of the text alone")
    if (hidden := _hidden_tokens(seen)) is not None:
        return finding(MASK_OF_OTHER_TOKENS, f"{hidden[0]} hides {hidden[1]} of them from all others")
    if seen.start:
        for convention, first in (("from 0", 0), ("from behind the pad's id", int(seen.padded.ids[0, 0]) + 1)):
            columns = torch.arange(seen.width, device=real.device).unsqueeze(0) - seen.start
            positions = columns.clamp(min=0) + first
            if _cured(seen, position_ids=positions):
                return finding(
                    POSITION_IDS_ON_THE_LEFT, f"with position_ids that count real tokens {convention}, they stay"
                )
    module, kind = _culprit(seen)
    where = (
        f"the first module that turns equal inputs into other outputs is {module}"
        if module
        else "no single module changes them"
    )
    if _reads_no_pad(seen):
        if kind in (None, MASK_IGNORED) and _kind_by_reach(seen) is None and _only_first_pad_counts(seen):
            return finding(
                OTHER_PATH,
                f"one pad and {seen.width - seen.length} give the same states, and none gives others; {where}",
            )
        where = f"other ids under the mask change nothing, so that places, or the number of pads, move them; {where}"
        if kind == DYNAMIC_QUANTISATION:
            return finding(kind, where)
        return finding(POSITION_IDS_ON_THE_LEFT if seen.start else PADS_REACH_TOKENS, where)
    if kind is None and module is not None:
        kind = _kind_by_reach(seen)
    if kind not in (None, MASK_IGNORED):
        return finding(kind or PADS_REACH_TOKENS, where)
    if name is not None and mask is not None and _is_ignored(seen, name):
        return finding(MASK_IGNORED, f"without the mask they are the same; {where}")
    return finding(PADS_REACH_TOKENS, where)


def _across_modules(seen: Seen, size: float) -> Finding:
    """Find the cause in an encoder of several modules, by running the whole pipeline again."""
    module, kind = _culprit(seen, across=True)
    where = (
        f"the first module that turns equal inputs into other outputs is {module}"
        if module
        else ("each module maps equal inputs to equal outputs, so the code between them is the cause")
    )
    if kind == MASK_IGNORED:  # no single module was given a mask
        kind = MASK_NOT_PASSED
    if kind is None:
        kind = _kind_of_reach(seen, seen.alone.states, seen.padded.states)
    return Finding(kind or PADS_REACH_TOKENS, f"{_moved(seen, size)}; {where}", size, seen.moved.texts)


def reads_other_ids(seen: Seen) -> bool:
    """Return whether other ids under the mask change the states of real tokens at all.

    Batches of one shape are rounded equally, so this also works in half precision.
    """
    name, others = _ids_name(seen.padded), torch.where(seen.real, seen.padded.ids, seen.padded.ids[0, seen.start])
    if name is None:
        return False
    states, other_states = _again(seen.padded), _again(seen.padded, **{name: others})
    if states is None or other_states is None:
        return False
    return relative(seen.at_real(states), seen.at_real(other_states)) > CLEAN


def module_finding(seen: Seen) -> Finding | None:
    """Find a module between encoder and vector whose outputs at real tokens depend on pads, in any layout."""
    module, kind = _culprit(seen, across=True, behind=True)
    if module is None:
        return None
    evidence = (
        f"its vector moves by {seen.moved.size:.2g} ({seen.shape}); the first module that turns equal inputs into "
        f"other outputs is {module}"
    )
    return Finding(
        MASK_NOT_PASSED if kind == MASK_IGNORED else kind or PADS_REACH_TOKENS,
        evidence,
        seen.moved.size,
        seen.moved.texts,
    )


def _is_one_module(seen: Seen) -> bool:
    """Return whether the module that gets the ids computes the states that were seen."""
    states = _again(seen.alone)
    if states is None or seen.alone.states is None or states.shape != seen.alone.states.shape:
        return False
    return relative(seen.alone.states, states) < OTHER_STATES


def _only_first_pad_counts(seen: Seen) -> bool:
    """Return whether the states are the same with one pad as with many."""
    if seen.width - seen.length < 2:
        return False
    columns = slice(seen.start - 1, None) if seen.start else slice(0, seen.length + 1)

    arguments = mapped(dict(seen.padded.arguments), lambda tensor: cut_columns(tensor, seen.width, columns))
    one_pad = _again(replace(seen.padded, arguments=arguments, ids=seen.padded.ids[:, columns]))
    many_pads = _again(seen.padded)
    if one_pad is None or many_pads is None:
        return False
    start = 1 if seen.start else 0
    return _agree(one_pad[:, start : start + seen.length], seen.at_real(many_pads))


def _with_positions(seen: Seen, mask_name: str) -> dict[str, Tensor]:
    """Return the right mask, and positions that count real tokens from 0."""
    columns = torch.arange(seen.width, device=seen.real.device).unsqueeze(0) - seen.start
    return {mask_name: seen.real.to(torch.int64), "position_ids": columns.clamp(min=0)}


def _positions_differ(seen: Seen) -> bool:
    """Return whether the pipeline gives the tokens other positions in the padded row than alone."""
    for name, value in seen.padded.arguments.items():
        alone = seen.alone.arguments.get(name)
        if "position" not in name or not isinstance(value, Tensor) or not isinstance(alone, Tensor):
            continue
        if value.shape[-1:] == (seen.width,) and alone.shape[-1:] == (seen.length,):
            padded = value.reshape(-1, seen.width)[:1, seen.start : seen.start + seen.length]
            if not torch.equal(padded, alone.reshape(-1, seen.length)[:1]):
                return True
    return False


def _hidden_tokens(seen: Seen) -> tuple[str, int] | None:
    """Return the name of an additive mask that hides real tokens from every position, and how many."""
    for name, value in seen.padded.arguments.items():
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.shape[-1:] != (seen.width,):
            continue
        hidden = (value < _HIDES).reshape(-1, seen.width).all(dim=0) & seen.real[0]
        if value.ndim > 1 and bool(hidden.any()):
            return name, int(hidden.sum())
    return None


def _ids_name(call: TokenCall) -> str | None:
    """Return the name of the parameter that takes the ids."""
    tensors = {name: value for name, value in call.arguments.items() if isinstance(value, Tensor)}
    return next((name for name, value in tensors.items() if torch.equal(value, call.ids)), None)


def _reads_no_pad(seen: Seen) -> bool:
    """Return whether other ids under the mask leave real tokens unchanged: then only positions can move them."""
    name = _ids_name(seen.padded)
    if name is None:
        return False
    others = torch.where(seen.real, seen.padded.ids, seen.padded.ids[0, seen.start])
    states, other_states = _again(seen.padded), _again(seen.padded, **{name: others})
    if states is None or other_states is None:
        return False
    return _agree(seen.at_real(states), seen.at_real(other_states))


def _is_ignored(seen: Seen, name: str) -> bool:
    """Return whether the padded batch has the same states under a mask of ones."""
    masked, unmasked = _again(seen.padded), _again(seen.padded, **{name: torch.ones_like(seen.padded.ids)})
    return masked is not None and unmasked is not None and _agree(masked, unmasked)


def _states_difference(seen: Seen, again: bool = False) -> float | None:
    """Return the largest difference of real tokens over their root mean square; None if it is not a number."""
    alone, padded = (_again(seen.alone), _again(seen.padded)) if again else (seen.alone.states, seen.padded.states)
    if alone is None or padded is None or alone.shape != seen.at_real(padded).shape:
        return None
    size = relative(alone, seen.at_real(padded))
    return None if math.isnan(size) else size


def _again(call: TokenCall, **changed: object) -> Tensor | None:
    try:
        return call.again(**changed)
    except Exception:  # the module does not accept the arguments
        return None


def _cured(seen: Seen, **changed: Tensor) -> bool:
    """Return whether changed arguments give real tokens the states of the text alone."""
    padded, alone = _again(seen.padded, **changed), _again(seen.alone)
    return padded is not None and alone is not None and _agree(alone, seen.at_real(padded))


def _agree(states: Tensor, other_states: Tensor) -> bool:
    if states.shape != other_states.shape:
        return False
    return relative(states, other_states) <= max(LEAK, STATE_ROUNDINGS * torch.finfo(states.dtype).eps)


_KINDS: tuple[tuple[PaddingBug, tuple[type[nn.Module], ...], tuple[str, ...]], ...] = (
    (
        RECURRENT_STATE,
        (nn.RNNBase, nn.RNNCellBase),
        ("mamba", "rwkv", "lstm", "gru", "recurrent", "ssm", "statespace", "lru"),
    ),
    (CONVOLUTION, (nn.modules.conv._ConvNd,), ("conv",)),
    (
        NORMALISATION,
        (nn.modules.batchnorm._NormBase, nn.GroupNorm),
        ("batchnorm", "instancenorm", "groupnorm", "norm"),
    ),
    (MASK_IGNORED, (nn.MultiheadAttention, nn.TransformerEncoderLayer), ("attention", "attn")),
)


def _kind(module: nn.Module) -> PaddingBug | None:
    if is_dynamically_quantised(module):
        return DYNAMIC_QUANTISATION
    name = type(module).__name__.lower()
    for kind, types, _ in _KINDS:
        if isinstance(module, types):
            return kind
    return next((kind for kind, _, words in _KINDS if any(word in name for word in words)), None)


def is_dynamically_quantised(module: nn.Module) -> bool:
    """Return whether a module rounds by a scale of its whole input, as dynamically quantised layers of torch do."""
    return type(module).__module__.startswith("torch.ao.nn.quantized.dynamic")


def _culprit(seen: Seen, across: bool = False, behind: bool = False) -> tuple[str | None, PaddingBug | None]:
    """Find the innermost module with equal inputs and different outputs at real tokens.

    Args:
        seen: The text.
        across: Whether to run the whole pipeline again, not only its encoder.
        behind: Whether to skip the encoder, whose states agree.

    Returns:
        The name and class of the module, and the kind of its fault; None if no module or kind was found.
    """
    if across and seen.reruns is None:
        return None, None
    alone: dict[tuple[int, int], tuple[list[Tensor], list[Tensor]]] = {}
    counts: Counter[int] = Counter()
    inner = set(seen.padded.module.modules()) if behind else set()
    different: list[nn.Module] = []

    def keep(module: nn.Module, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        counts[id(module)] += 1
        alone[id(module), counts[id(module)]] = [t.clone() for t in inputs], [t.clone() for t in outputs]

    def compare(module: nn.Module, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        counts[id(module)] += 1
        before = alone.get((id(module), counts[id(module)]))
        if different or before is None or module in inner:
            return
        rows = len(seen.batch.ids) if across and seen.batch is not None else 1
        same_inputs = _equal(seen, before[0], inputs, rows)
        if same_inputs and _equal(seen, before[1], outputs, rows, by_position=across) is False:
            different.append(module)

    _run(seen, across, 0, keep)
    counts.clear()
    _run(seen, across, 1, compare)
    if not different:
        return None, None
    names = {id(module): name for name, module in seen.padded.module.named_modules()}
    name, kind = names.get(id(different[0]), ""), type(different[0])
    class_name = kind.__name__ if not is_dynamically_quantised(different[0]) else f"{kind.__module__}.{kind.__name__}"
    return f"{name} ({class_name})" if name else class_name, _kind(different[0])


def _run(seen: Seen, across: bool, which: int, on_module: OnModule) -> None:
    if across and seen.reruns is not None:
        seen.reruns[which](on_module)
        return
    with torch.no_grad(), watch(on_module):
        _again((seen.alone, seen.padded)[which])


def _equal(seen: Seen, alone: list[Tensor], padded: list[Tensor], rows: int, by_position: bool = False) -> bool | None:
    """Return whether tensors agree at real tokens; None if none of them has tokens.

    Args:
        seen: The text.
        alone: The tensors of the text alone.
        padded: The tensors of the padded run.
        rows: The number of texts of the padded run.
        by_position: Whether to skip tensors without an axis of positions, such as pooled vectors.
    """
    compared = [
        _agree(tensor, cut)
        for tensor, other in zip(alone, padded, strict=False)
        if tensor.is_floating_point() and (cut := _cut(seen, tensor, other, rows)) is not None
        if not by_position or seen.width in other.shape[1:]
    ]
    return all(compared) if compared else None


def _cut(seen: Seen, alone: Tensor, padded: Tensor, rows: int) -> Tensor | None:
    """Return the part of a padded tensor at real tokens; None if no axis holds positions."""
    if alone.ndim != padded.ndim:
        return None
    if rows > 1 and padded.ndim and len(padded) == rows and len(alone) == 1:
        padded = padded[seen.row : seen.row + 1]
    axes = [axis for axis in range(alone.ndim) if alone.shape[axis] != padded.shape[axis]]
    for axis in axes:
        if (alone.shape[axis], padded.shape[axis]) != (seen.length, seen.width):
            return None
        padded = padded.narrow(axis, seen.start, seen.length)
    return padded


def _kind_by_reach(seen: Seen) -> PaddingBug | None:
    """Return the kind of leak by the real tokens that pads reach: only those next to them, or more."""
    return _kind_of_reach(seen, _again(seen.alone), _again(seen.padded))


def _kind_of_reach(seen: Seen, alone: Tensor | None, padded: Tensor | None) -> PaddingBug | None:
    if alone is None or padded is None:
        return None
    scale = float(alone.double().square().mean().sqrt())
    moved = (alone.double() - seen.at_real(padded).double()).abs().amax(dim=(0, 2)) / scale > LEAK
    if seen.start:
        moved = moved.flip(0)  # the pads come first
    reach = int(moved.flip(0).long().cumprod(0).sum())
    return CONVOLUTION if reach == int(moved.sum()) and 0 < reach <= seen.length // 2 else None
