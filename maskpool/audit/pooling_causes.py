"""Which formula made a vector of token states, where it reads pads or counts them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from maskpool.audit.edits import cutting, edited
from maskpool.audit.encoder_causes import module_finding, reads_other_ids
from maskpool.audit.probes import Measured, difference
from maskpool.audit.report import Finding
from maskpool.audit.seen import Seen
from maskpool.leaks import PADDING_BUGS, all_formulas
from maskpool.poolings.build import build_pooling
from maskpool.tolerances import PARALLEL, SAME_VECTOR, TIMES_NOISE, UNIT_LENGTH, VECTOR_CHANGE

Change: TypeAlias = Callable[[Tensor], Tensor]

_ADDITIVE = "additive mask taken for a multiplicative one"
_READ, _COUNTED = "pads read by the pooling", "padded length read by the pooling"
_MEAN, _MAX = "mean over pads", "max over pads"
_FIRST, _LAST = "first column taken as cls", "last column taken as last token"
_LAST_BY_COLUMN, _WEIGHTS_BY_COLUMN = "last token counted by column", "position weights counted by column"
_PROMPT_BY_COLUMN = "prompt counted by column"
_UNKNOWN, _REACH = "padding of unknown cause", "pads reach real tokens inside the encoder"
_CUT = "cut to a shorter text of the batch"
_WIDTH, _ZEROED = "divided by the batch width", "zeroed pads in a max"


def pooling_finding(seen: Seen, measured: Measured, moved: bool, named: bool) -> Finding | None:
    """How the pooling reads pads, or how many there are; None where it does neither.

    Args:
        seen: A text in a padded batch.
        measured: What the probes found.
        moved: Whether its vector is another one there.
        named: Whether the encoder is known to leak, which may be why it moves.
    """
    if seen.there.states is None or not bool(seen.at_real(seen.there.states).isfinite().all()):
        return None
    by_formula = _by_formula(seen, moved)
    if isinstance(by_formula, Finding):
        return by_formula
    if by_formula and (named or not moved):
        return None
    if moved and not named and (between := module_finding(seen)) is not None:
        return between
    return _by_edits(seen, measured, moved, named)


def exact_finding(seen: Seen, measured: Measured) -> Finding | None:
    """Whether pads are read at all, in two runs of one shape, which round in the same way.

    Args:
        seen: A text in a padded batch whose vector moves by no more than rounding in half precision.
        measured: What the probes found.
    """
    edits = _Edits(seen, measured)
    if reads_other_ids(seen):
        evidence = f"other ids under the mask change the token states of real tokens ({seen.shape})"
        return Finding(_REACH, evidence, seen.moved.size, seen.moved.texts)
    if edits.reads(edits.pads):
        evidence = f"the vector depends on the token states of pads; it moves by {seen.moved.size:.2g} ({seen.shape})"
        return Finding(_READ, evidence, seen.moved.size, seen.moved.texts)
    return None


def is_clean_formula(seen: Seen) -> bool:
    """Whether the vector is a pooling of the states of real tokens that needs nothing else."""
    if seen.there.states is None:
        return False
    return is_pooling_of(seen.at_real(seen.there.states), _vectors(seen))


def is_pooling_of(states: Tensor, vectors: Sequence[Tensor]) -> bool:
    """Whether one of some vectors is a pooling without parameters of all states (1, seq, dim)."""
    clean = {name: formula() for name, formula in all_formulas(states[0].double().cpu()).items()}
    return any(_cause_of(vector, {}, clean) == _CLEAN for vector in vectors)


def vectors_on_the_way(vector: Tensor, pooled: Sequence[Tensor]) -> list[Tensor]:
    """The pipeline's vector, and those that its modules made before, where the last of them made it."""
    seen = [one.double().cpu() for one in pooled]
    return [vector, *(seen if any(one.shape == vector.shape and same(vector, one) for one in seen) else [])]


def _vectors(seen: Seen) -> list[Tensor]:
    return vectors_on_the_way(seen.moved.there, seen.pooled)


def _by_formula(seen: Seen, moved: bool) -> Finding | bool:
    """The finding of a formula that gives the vector; or whether a clean formula does."""
    states = seen.there.states
    assert states is not None
    x, real = states[0].double().cpu(), seen.real[0].cpu()
    if moved:
        for cause, evidence in _by_column(seen, x, real):
            evidence = f"{evidence} ({seen.shape}); it moves by {seen.moved.size:.2g}"
            return Finding(cause, evidence, seen.moved.size, seen.moved.texts)
    clean = {name: formula() for name, formula in all_formulas(x[real]).items()}
    leaks = _wrong_formulas(x, real)
    if seen.start and _pads_agree(seen, x) and same(seen.moved.there, x[0]):
        return False
    for vector in _vectors(seen):
        found = _cause_of(vector, leaks, clean)
        if found == _CLEAN:
            return True
        if found is None or (found[0] == _ZEROED and not moved):  # what a rectifier gives as well
            continue
        cause, formula = found
        near = [right for right in clean.values() if right.shape == vector.shape]
        size = seen.moved.size if moved else min((difference(vector, right) for right in near), default=1.0)
        more = "it moves by" if moved else "alone it is padded as well; any pooling of real tokens is away by"
        evidence = f"the vector of the padded text is {formula} ({seen.shape}); {more} {size:.2g}"
        return Finding(cause, evidence, size, seen.moved.texts)
    return False


_CLEAN = ("", "")


def _cause_of(
    vector: Tensor, leaks: Mapping[str, Mapping[str, Tensor]], clean: dict[str, Tensor]
) -> tuple[str, str] | None:
    """The cause and the formula of a vector, ``_CLEAN`` where it is clean, None where no formula gives it.

    A vector that is several poolings one after another is looked at block by block.
    """
    if any(same(vector, right) for right in clean.values()):
        return _CLEAN
    for cause, candidates in leaks.items():
        for formula, candidate in candidates.items():
            if same(vector, candidate) or (cause == _ADDITIVE and _parallel(vector, candidate)):
                return cause, formula
    width = len(clean["mean"])
    blocks = torch.split(vector, width) if len(vector) > width and len(vector) % width == 0 else ()
    if not blocks:
        return None
    unit = abs(float(vector.norm()) - 1) < UNIT_LENGTH  # made of unit length as a whole, or block by block
    found: tuple[str, str] | None = None
    scales = []
    for number, block in enumerate(blocks, start=1):
        rights = [right for right in clean.values() if _fits(block, right, unit)]
        if rights:
            scales += [float(block.norm() / rights[0].norm())] if float(rights[0].norm()) else []
            continue
        wrongs = [
            (cause, f"{formula} in its part {number} of {len(blocks)}", candidate)
            for cause, candidates in leaks.items()
            for formula, candidate in candidates.items()
            if _fits(block, candidate, unit)
        ]
        if not wrongs:
            return None
        cause, formula, candidate = wrongs[0]
        scales += [float(block.norm() / candidate.norm())] if float(candidate.norm()) else []
        found = found or (cause, formula)
    if max(scales, default=1.0) > (1 + SAME_VECTOR) * min(scales, default=1.0) and not all(
        abs(float(block.norm()) * len(blocks) ** 0.5 - 1) < UNIT_LENGTH or abs(float(block.norm()) - 1) < UNIT_LENGTH
        for block in blocks
    ):
        return None
    return found or _CLEAN


def _fits(block: Tensor, candidate: Tensor, unit: bool) -> bool:
    if same(block, candidate):
        return True
    if not unit or not float(candidate.norm()) or not float(block.norm()):
        return False
    return block.shape == candidate.shape and float(cosine_similarity(block, candidate, dim=0)) > 1 - PARALLEL


def _by_column(seen: Seen, x: Tensor, real: Tensor) -> Iterator[tuple[str, str]]:
    """What counts columns of a row that begins with pads as if they were tokens."""
    vector, columns = seen.moved.there, torch.arange(len(x))
    if not seen.start:
        return
    if not _pads_agree(seen, x) and same(vector, x[seen.length - 1]):
        yield (
            _LAST_BY_COLUMN,
            f"the vector of the padded text is column {seen.length - 1}, the number of tokens less one",
        )
    weights = (columns + 1).double() * real
    by_column, clean = (
        (weights @ x) / weights.sum(),
        build_pooling("weightedmean")(x[real].unsqueeze(0), _ones(x[real])),
    )
    if same(vector, by_column) and not same(vector, clean[0]):
        yield (
            _WEIGHTS_BY_COLUMN,
            "the vector of the padded text is a mean weighted by column, not by position in the text",
        )
    alone = seen.alone.states
    if alone is None:
        return
    one = alone[0].double().cpu()
    # A mode that gives the vector with all tokens, such as the last token, says nothing about a prompt.
    modes = [name for name, formula in all_formulas(one).items() if not same(seen.moved.alone, formula())]
    for left_out in range(1, min(seen.length, 64)):
        kept = real & (columns >= left_out)
        if left_out > seen.start + seen.length - 1 or not bool(kept.any()):
            break
        short, there = all_formulas(one[left_out:]), all_formulas(x[kept])
        mode = next((name for name in modes if same(seen.moved.alone, short[name]())), None)
        if mode is not None and same(vector, there[mode]()):
            yield (
                _PROMPT_BY_COLUMN,
                f"alone its vector is {mode} without its first {left_out} tokens, in the padded row {mode} without the "
                f"first {left_out} columns, {min(left_out, seen.start)} of which are pads",
            )
            return


def _pads_agree(seen: Seen, x: Tensor) -> bool:
    """Whether the column that is counted as the last token holds the same as the first; then only changes tell them."""
    return same(x[seen.length - 1], x[0])


def _ones(x: Tensor) -> Tensor:
    return torch.ones(1, len(x), dtype=torch.int64)


def _wrong_formulas(x: Tensor, real: Tensor) -> dict[str, Mapping[str, Tensor]]:
    """Return what each wrong formula of the catalogue gives, by its bug."""
    return {bug.title: bug.formula(x, real) for bug in PADDING_BUGS.values() if bug.formula is not None}


def same(vector: Tensor, candidate: Tensor) -> bool:
    """Whether two vectors are equal, or have one direction where the first has length 1."""
    if vector.shape != candidate.shape or not bool(candidate.isfinite().all()):
        return False
    if difference(vector, candidate) < SAME_VECTOR:
        return True
    unit = abs(float(vector.norm()) - 1) < UNIT_LENGTH and float(candidate.norm()) > 0
    return unit and difference(vector, candidate / candidate.norm()) < SAME_VECTOR


def _parallel(vector: Tensor, candidate: Tensor) -> bool:
    """Whether one is a multiple of the other: sums over an additive mask are scaled by its values."""
    return vector.shape == candidate.shape and abs(float(cosine_similarity(vector, candidate, dim=0))) > 1 - PARALLEL


@dataclass(frozen=True)
class _Edits:
    """Runs of the pipeline in which the token states of one text are changed before they are pooled."""

    seen: Seen
    measured: Measured

    @property
    def pads(self) -> Tensor:
        return ~self.seen.real[0].cpu()

    def vector(self, change: Change) -> Tensor | None:
        """The vector of the text in its padded batch, its states (width, dim) changed; None if it is not finite."""
        batch, pipeline = self.seen.batch, self.measured.pipeline
        if batch is None or batch.maker is None or pipeline is None:
            return None

        def edit(states: Tensor) -> Tensor:
            states = states.clone()
            states[self.seen.row] = change(states[self.seen.row])
            return states

        text = self.seen.moved.texts[0]
        own = self.measured.own_unpadded.get(text)
        with ExitStack() as stack:
            if self.seen.unpadded and own is not None:
                stack.enter_context(cutting(self.measured.alone[text].roots, own.columns))
            stack.enter_context(edited(batch.maker, batch.ids.shape, edit))
            try:
                found = pipeline(self.seen.moved.batch)[self.seen.moved.place]
            except ValueError:
                return None
        return found if bool(found.isfinite().all()) else None

    def noise(self, columns: Tensor, number: int, size: float = 10.0) -> Change:
        """Random numbers in place of the states of some columns."""
        states = self.seen.at_real(self.seen.there.states)  # type: ignore[arg-type]  # looked at before
        scale = size * float(states.double().square().mean().sqrt())
        drawn = torch.randn(states.shape[-1], generator=torch.Generator().manual_seed(number)) * scale

        def change(x: Tensor) -> Tensor:
            x = x.clone()
            x[columns.to(x.device)] = drawn.to(x)
            return x

        return change

    def reads(self, columns: Tensor) -> bool | None:
        """Whether the vector depends on the states of some columns; None where that cannot be run.

        Both runs have one shape, so rounding is the same in both, whatever the precision.
        """
        one, other = (self.vector(self.noise(columns, number)) for number in (1, 2))
        if one is None or other is None:
            return None
        return difference(one, other) > max(VECTOR_CHANGE, TIMES_NOISE * self.measured.repeated)

    def agree(self, one: Tensor | None, other: Tensor | None) -> bool:
        """Whether two vectors are the same but for noise."""
        return (
            one is not None
            and other is not None
            and difference(one, other) <= max(self.measured.threshold, SAME_VECTOR)
        )


def _by_edits(seen: Seen, measured: Measured, moved: bool, named: bool) -> Finding | None:
    """Find how pads are read by changing token states, whatever follows the pooling."""
    edits = _Edits(seen, measured)
    pads, size = edits.pads, seen.moved.size
    move = f"; it moves by {size:.2g} ({seen.shape})" if moved else f" ({seen.shape})"

    def finding(cause: str, evidence: str) -> Finding:
        if cause in (_READ, _COUNTED) and isinstance(seen.there.maker, nn.Embedding):
            cause, evidence = _UNKNOWN, f"{evidence}, but code that is not a module runs behind the token embeddings"
        return Finding(cause, evidence + move, size, seen.moved.texts)

    states = seen.there.states
    lost = states is not None and not bool(states[0, pads.to(states.device)].isfinite().all())
    if lost and moved and edits.agree(edits.vector(edits.noise(pads, 1)), seen.moved.alone):
        return finding(
            "NaN at pads read by the pooling",
            "token states are NaN or infinite at pads; with numbers there, the vector is that of the text alone",
        )
    read = edits.reads(pads)
    if read is None:
        return None
    if read:
        cause, evidence = _how_pads_are_read(edits)
        return finding(cause, evidence)
    encoders = {tokens.module for call in measured.alone.values() for tokens in call.tokens}
    own = measured.own_unpadded.get(seen.moved.texts[0])
    blurred = len(encoders) > 1 or (
        own is not None and own.vector is None
    )  # another encoder, or pads alone, may move it
    if not moved or named or blurred or not edits.reads(~pads):
        return None
    cause, evidence = _how_pads_are_counted(edits)
    return finding(cause, evidence)


def _how_pads_are_read(edits: _Edits) -> tuple[str, str]:
    seen, pads = edits.seen, edits.pads
    columns = torch.arange(len(pads))
    if edits.reads(~pads) is False:
        for cause, column in ((_LAST_BY_COLUMN, seen.length - 1), (_FIRST, 0)) if seen.start else ((_LAST, -1),):
            only = columns == column % len(pads)
            if bool(pads[only].all()) and edits.reads(only) and not edits.reads(~only):
                return cause, f"the vector depends on the token state of column {column % len(pads)} alone, a pad"
        return _ADDITIVE, "the vector depends on the token states of pads, and on those of no real token"
    base, scale = edits.vector(lambda x: x), edits.noise(pads, 1)

    def moved_between(pad: int, token: int) -> Change:
        def change(x: Tensor) -> Tensor:
            x, drawn = x.clone(), scale(x)[pad]
            x[pad] += drawn
            x[token] -= drawn
            return x

        return change

    at, tokens = columns[pads].tolist(), columns[~pads].tolist()
    if all(
        edits.agree(edits.vector(moved_between(pad, token)), base)
        for pad, token in ((at[0], tokens[0]), (at[-1], tokens[-1]))
    ):
        alone = _Edits(_as_seen_alone(seen), edits.measured)
        filled = [one.vector(one.noise(torch.ones_like(one.pads), 3)) for one in (edits, alone)]
        weighs = "numbers moved from a real token to a pad leave the vector as it is: both weigh the same"
        return (_MEAN if edits.agree(*filled) else _READ), weighs  # a sum of equal states grows with the width
    low = [edits.vector(_filled(pads, -size)) for size in (1e3, 2e3)]
    copies = [edits.vector(_copied(pads, token)) for token in (tokens[0], tokens[-1])]
    if edits.agree(*low) and all(edits.agree(one, low[0]) for one in copies):
        return _MAX, "the vector depends on the token states of pads, unless these are smaller than all others"
    return _READ, "the vector depends on the token states of pads"


def _filled(columns: Tensor, times: float) -> Change:
    def change(x: Tensor) -> Tensor:
        x = x.clone()
        x[columns.to(x.device)] = times * float(x[~columns.to(x.device)].abs().max())
        return x

    return change


def _copied(columns: Tensor, token: int) -> Change:
    def change(x: Tensor) -> Tensor:
        x = x.clone()
        x[columns.to(x.device)] = x[token].clone()
        return x

    return change


def _how_pads_are_counted(edits: _Edits) -> tuple[str, str]:
    seen, pads = edits.seen, edits.pads

    def stretched(x: Tensor) -> Tensor:
        x = x.clone()
        x[~pads.to(x.device)] *= seen.width / seen.length
        return x

    if edits.agree(edits.vector(stretched), seen.moved.alone):
        return _WIDTH, "it is that of the text alone once the token states are multiplied by width / length"
    if seen.start and (column := seen.length - 1) >= seen.start:
        only = torch.arange(len(pads)) == column
        if edits.reads(only) and not edits.reads(~only):
            return _LAST_BY_COLUMN, f"the vector depends on column {column} alone, the number of tokens less one"
    alone = _Edits(_as_seen_alone(seen), edits.measured)
    last, last_alone = (
        torch.zeros_like(one).index_fill(0, torch.tensor(place), True)
        for one, place in ((pads, seen.start + seen.length - 1), (alone.pads, seen.length - 1))
    )
    if alone.reads(last_alone) and edits.reads(last) is False:
        return _CUT, "the token state of its last token is read alone, and not in the batch"
    # What a zero among the real tokens changes is gone where all their numbers are positive; where all are negative,
    # nothing but the zero is left.
    positive = edits.agree(*(one.vector(_signed(~one.pads, 1)) for one in (edits, alone)))
    negative = [one.vector(_signed(~one.pads, sign)) for one in (edits, alone) for sign in (-1, -2)]
    if positive and edits.agree(*negative[:2]) and not edits.agree(*negative[2:]):
        return (
            _ZEROED,
            "it is that of the text alone where all token states are positive, and the same for all that are negative",
        )
    return _COUNTED, "no token state of a pad is read, and the token states of real tokens are those of the text alone"


def _signed(columns: Tensor, factor: float) -> Change:
    def change(x: Tensor) -> Tensor:
        x = x.clone()
        x[columns.to(x.device)] = factor * (x[columns.to(x.device)].abs() + 1)
        return x

    return change


def _as_seen_alone(seen: Seen) -> Seen:
    moved = replace(seen.moved, texts=seen.moved.texts[:1], place=0)
    return replace(seen, moved=moved, there=seen.alone, start=0, row=0, batch=seen.alone, unpadded=True)
