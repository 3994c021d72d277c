"""Find out how a pooling reads or counts pads: by the formula that gives its vector, else by editing token states."""

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
from maskpool.leaks import (
    ADDITIVE_MASK,
    CUT_TO_A_SHORTER_TEXT,
    DIVIDED_BY_WIDTH,
    FIRST_COLUMN,
    LAST_COLUMN,
    LAST_TOKEN_BY_COLUMN,
    MAX_OVER_PADS,
    MEAN_OVER_PADS,
    NAN_AT_PADS,
    PADDED_LENGTH_READ,
    PADDING_BUGS,
    PADS_REACH_TOKENS,
    PADS_READ,
    PROMPT_BY_COLUMN,
    UNKNOWN_CAUSE,
    WEIGHTS_BY_COLUMN,
    ZEROED_PADS,
    PaddingBug,
    all_formulas,
)
from maskpool.poolings.build import build_pooling
from maskpool.tolerances import PARALLEL, SAME_VECTOR, TIMES_NOISE, UNIT_LENGTH, VECTOR_CHANGE

Change: TypeAlias = Callable[[Tensor], Tensor]


def pooling_finding(seen: Seen, measured: Measured, moved: bool, named: bool) -> Finding | None:
    """Find out whether the pooling reads pads or counts them, and how.

    Args:
        seen: A text in a padded batch.
        measured: The measurements of the probes.
        moved: Whether its vector changes in the batch.
        named: Whether another cause was found, such as a leak of the encoder, which may move the vector.

    Returns:
        The finding; None if the pooling does neither.
    """
    if seen.padded.states is None or not bool(seen.at_real(seen.padded.states).isfinite().all()):
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
    """Find out whether pads are read at all, by two runs of one shape, which round equally.

    Args:
        seen: A text in a padded batch whose vector moves by at most rounding in half precision.
        measured: The measurements of the probes.
    """
    edits = _Edits(seen, measured)
    if reads_other_ids(seen):
        evidence = f"other ids under the mask change the token states of real tokens ({seen.shape})"
        return Finding(PADS_REACH_TOKENS, evidence, seen.moved.size, seen.moved.texts)
    if edits.reads(edits.pads):
        evidence = f"the vector depends on the token states of pads; it moves by {seen.moved.size:.2g} ({seen.shape})"
        return Finding(PADS_READ, evidence, seen.moved.size, seen.moved.texts)
    return None


def is_clean_formula(seen: Seen) -> bool:
    """Return whether the vector is a pooling of only the states of real tokens."""
    if seen.padded.states is None:
        return False
    return is_pooling_of(seen.at_real(seen.padded.states), _vectors(seen))


def is_pooling_of(states: Tensor, vectors: Sequence[Tensor]) -> bool:
    """Return whether one of the vectors is a pooling without parameters of all states (1, seq, dim)."""
    clean = {name: formula() for name, formula in all_formulas(states[0].double().cpu()).items()}
    return any(_cause_of(vector, {}, clean) is True for vector in vectors)


def vectors_on_the_way(vector: Tensor, pooled: Sequence[Tensor]) -> list[Tensor]:
    """Return the vector of a pipeline, and the vectors of its modules if one of these is the same."""
    inner = [pooled_vector.double().cpu() for pooled_vector in pooled]
    is_last = any(candidate.shape == vector.shape and same(vector, candidate) for candidate in inner)
    return [vector, *(inner if is_last else [])]


def _vectors(seen: Seen) -> list[Tensor]:
    return vectors_on_the_way(seen.moved.batched, seen.pooled)


def _by_formula(seen: Seen, moved: bool) -> Finding | bool:
    """Return the finding of a formula that gives the vector, else whether a clean formula does."""
    states = seen.padded.states
    assert states is not None
    x, real = states[0].double().cpu(), seen.real[0].cpu()
    if moved:
        for cause, evidence in _by_column(seen, x, real):
            evidence = f"{evidence} ({seen.shape}); it moves by {seen.moved.size:.2g}"
            return Finding(cause, evidence, seen.moved.size, seen.moved.texts)
    clean = {name: formula() for name, formula in all_formulas(x[real]).items()}
    leaks = _wrong_formulas(x, real)
    if seen.start and _pads_agree(seen, x) and same(seen.moved.batched, x[0]):
        return False
    for vector in _vectors(seen):
        cause_and_formula = _cause_of(vector, leaks, clean)
        if cause_and_formula is True:
            return True
        if cause_and_formula is False:
            continue
        cause, formula = cause_and_formula
        if cause == ZEROED_PADS and not moved:  # a rectifier gives the same
            continue
        near = [right for right in clean.values() if right.shape == vector.shape]
        size = seen.moved.size if moved else min((difference(vector, right) for right in near), default=1.0)
        more = "it moves by" if moved else "alone it is padded as well; every pooling of real tokens differs by"
        evidence = f"the vector of the padded text is {formula} ({seen.shape}); {more} {size:.2g}"
        return Finding(cause, evidence, size, seen.moved.texts)
    return False


def _cause_of(
    vector: Tensor, leaks: Mapping[PaddingBug, Mapping[str, Tensor]], clean: dict[str, Tensor]
) -> tuple[PaddingBug, str] | bool:
    """Return the cause and formula of a vector, else whether a clean formula gives it.

    A vector of several concatenated poolings is compared block by block.
    """
    if any(same(vector, right) for right in clean.values()):
        return True
    for cause, candidates in leaks.items():
        for formula, candidate in candidates.items():
            if same(vector, candidate) or (cause == ADDITIVE_MASK and _parallel(vector, candidate)):
                return cause, formula
    width = len(clean["mean"])
    blocks = torch.split(vector, width) if len(vector) > width and len(vector) % width == 0 else ()
    if not blocks:
        return False
    unit = abs(float(vector.norm()) - 1) < UNIT_LENGTH  # normalised as a whole, or block by block
    first_leak: tuple[PaddingBug, str] | None = None
    scales = []
    for number, block in enumerate(blocks, start=1):
        rights = [right for right in clean.values() if _fits(block, right, unit)]
        if rights:
            scales += [float(block.norm() / rights[0].norm())] if float(rights[0].norm()) else []
            continue
        wrongs = [
            (cause, f"{formula} in part {number} of {len(blocks)}", candidate)
            for cause, candidates in leaks.items()
            for formula, candidate in candidates.items()
            if _fits(block, candidate, unit)
        ]
        if not wrongs:
            return False
        cause, formula, candidate = wrongs[0]
        scales += [float(block.norm() / candidate.norm())] if float(candidate.norm()) else []
        first_leak = first_leak or (cause, formula)
    if max(scales, default=1.0) > (1 + SAME_VECTOR) * min(scales, default=1.0) and not all(
        abs(float(block.norm()) * len(blocks) ** 0.5 - 1) < UNIT_LENGTH or abs(float(block.norm()) - 1) < UNIT_LENGTH
        for block in blocks
    ):
        return False
    return first_leak or True


def _fits(block: Tensor, candidate: Tensor, unit: bool) -> bool:
    if same(block, candidate):
        return True
    if not unit or not float(candidate.norm()) or not float(block.norm()):
        return False
    return block.shape == candidate.shape and float(cosine_similarity(block, candidate, dim=0)) > 1 - PARALLEL


def _by_column(seen: Seen, x: Tensor, real: Tensor) -> Iterator[tuple[PaddingBug, str]]:
    """Yield causes and evidence of formulas that count columns, pads included, under left padding."""
    vector, columns = seen.moved.batched, torch.arange(len(x))
    if not seen.start:
        return
    if not _pads_agree(seen, x) and same(vector, x[seen.length - 1]):
        yield (
            LAST_TOKEN_BY_COLUMN,
            f"the vector of the padded text is column {seen.length - 1}, the number of tokens minus one",
        )
    weights = (columns + 1).double() * real
    by_column, clean = (
        (weights @ x) / weights.sum(),
        build_pooling("weightedmean")(x[real].unsqueeze(0), _ones(x[real])),
    )
    if same(vector, by_column) and not same(vector, clean[0]):
        yield (
            WEIGHTS_BY_COLUMN,
            "the vector of the padded text is a mean weighted by column, not by position in the text",
        )
    alone = seen.alone.states
    if alone is None:
        return
    unpadded = alone[0].double().cpu()
    # Exclude modes that give the vector with all tokens, such as the last token.
    modes = [name for name, formula in all_formulas(unpadded).items() if not same(seen.moved.alone, formula())]
    for left_out in range(1, min(seen.length, 64)):
        kept = real & (columns >= left_out)
        if left_out > seen.start + seen.length - 1 or not bool(kept.any()):
            break
        short, in_row = all_formulas(unpadded[left_out:]), all_formulas(x[kept])
        mode = next((name for name in modes if same(seen.moved.alone, short[name]())), None)
        if mode is not None and same(vector, in_row[mode]()):
            yield (
                PROMPT_BY_COLUMN,
                f"alone its vector is {mode} without its first {left_out} tokens, in the padded row {mode} without the "
                f"first {left_out} columns, {min(left_out, seen.start)} of which are pads",
            )
            return


def _pads_agree(seen: Seen, x: Tensor) -> bool:
    """Return whether the columns of two bugs, the first one and the number of tokens minus one, hold equal states.

    Then only edits distinguish the bugs.
    """
    return same(x[seen.length - 1], x[0])


def _ones(x: Tensor) -> Tensor:
    return torch.ones(1, len(x), dtype=torch.int64)


def _wrong_formulas(x: Tensor, real: Tensor) -> dict[PaddingBug, Mapping[str, Tensor]]:
    """Return what each wrong formula of the catalogue gives, by its bug."""
    return {bug: bug.formula(x, real) for bug in PADDING_BUGS.values() if bug.formula is not None}


def same(vector: Tensor, candidate: Tensor) -> bool:
    """Return whether two vectors are equal, or parallel if the first has length 1."""
    if vector.shape != candidate.shape or not bool(candidate.isfinite().all()):
        return False
    if difference(vector, candidate) < SAME_VECTOR:
        return True
    unit = abs(float(vector.norm()) - 1) < UNIT_LENGTH and float(candidate.norm()) > 0
    return unit and difference(vector, candidate / candidate.norm()) < SAME_VECTOR


def _parallel(vector: Tensor, candidate: Tensor) -> bool:
    """Return whether two vectors are parallel: sums over an additive mask are scaled by its values."""
    return vector.shape == candidate.shape and abs(float(cosine_similarity(vector, candidate, dim=0))) > 1 - PARALLEL


@dataclass(frozen=True)
class _Edits:
    """Runs of a pipeline with edited token states of one text."""

    seen: Seen
    measured: Measured

    @property
    def pads(self) -> Tensor:
        return ~self.seen.real[0].cpu()

    def vector(self, change: Change) -> Tensor | None:
        """Return the vector of the text with edited states (width, dim); None if it is not finite."""
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
                vector = pipeline(self.seen.moved.batch)[self.seen.moved.place]
            except ValueError:
                return None
        return vector if bool(vector.isfinite().all()) else None

    def noise(self, columns: Tensor, number: int, size: float = 10.0) -> Change:
        """Return an edit that replaces the states of some columns by random numbers."""
        states = self.seen.at_real(self.seen.padded.states)  # type: ignore[arg-type]  # checked before
        scale = size * float(states.double().square().mean().sqrt())
        drawn = torch.randn(states.shape[-1], generator=torch.Generator().manual_seed(number)) * scale

        def change(x: Tensor) -> Tensor:
            x = x.clone()
            x[columns.to(x.device)] = drawn.to(x)
            return x

        return change

    def reads(self, columns: Tensor) -> bool | None:
        """Return whether the vector depends on the states of some columns; None if this cannot run.

        Both runs have one shape, so they round equally in any precision.
        """
        first, second = (self.vector(self.noise(columns, number)) for number in (1, 2))
        if first is None or second is None:
            return None
        return difference(first, second) > max(VECTOR_CHANGE, TIMES_NOISE * self.measured.repeated)

    def agree(self, vector: Tensor | None, other: Tensor | None) -> bool:
        """Return whether two vectors are the same up to noise."""
        if vector is None or other is None:
            return False
        return difference(vector, other) <= max(self.measured.threshold, SAME_VECTOR)


def _by_edits(seen: Seen, measured: Measured, moved: bool, named: bool) -> Finding | None:
    """Find out how pads are read by editing token states; works with any code after the pooling."""
    edits = _Edits(seen, measured)
    pads, size = edits.pads, seen.moved.size
    move = f"; it moves by {size:.2g} ({seen.shape})" if moved else f" ({seen.shape})"

    def finding(cause: PaddingBug, evidence: str) -> Finding:
        if cause in (PADS_READ, PADDED_LENGTH_READ) and isinstance(seen.padded.maker, nn.Embedding):
            cause, evidence = (
                UNKNOWN_CAUSE,
                f"{evidence}, but code that is not a module runs after the token embeddings",
            )
        return Finding(cause, evidence + move, size, seen.moved.texts)

    states = seen.padded.states
    lost = states is not None and not bool(states[0, pads.to(states.device)].isfinite().all())
    if lost and moved and edits.agree(edits.vector(edits.noise(pads, 1)), seen.moved.alone):
        return finding(
            NAN_AT_PADS,
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
    )  # another encoder, or pads of the text alone, may move it
    if not moved or named or blurred or not edits.reads(~pads):
        return None
    cause, evidence = _how_pads_are_counted(edits)
    return finding(cause, evidence)


def _how_pads_are_read(edits: _Edits) -> tuple[PaddingBug, str]:
    seen, pads = edits.seen, edits.pads
    columns = torch.arange(len(pads))
    if edits.reads(~pads) is False:
        for cause, column in (
            ((LAST_TOKEN_BY_COLUMN, seen.length - 1), (FIRST_COLUMN, 0)) if seen.start else ((LAST_COLUMN, -1),)
        ):
            only = columns == column % len(pads)
            if bool(pads[only].all()) and edits.reads(only) and not edits.reads(~only):
                return cause, f"the vector depends on the token state of column {column % len(pads)}, a pad, only"
        return ADDITIVE_MASK, "the vector depends on the token states of pads, and not on those of real tokens"
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
        filled = [runs.vector(runs.noise(torch.ones_like(runs.pads), 3)) for runs in (edits, alone)]
        weighs = "moving numbers from a real token to a pad does not change the vector: both have equal weight"
        return (
            MEAN_OVER_PADS if edits.agree(*filled) else PADS_READ
        ), weighs  # a sum of equal states grows with the width
    low = [edits.vector(_filled(pads, -size)) for size in (1e3, 2e3)]
    copies = [edits.vector(_copied(pads, token)) for token in (tokens[0], tokens[-1])]
    if edits.agree(*low) and all(edits.agree(vector, low[0]) for vector in copies):
        return MAX_OVER_PADS, "the vector depends on the token states of pads, unless these are smaller than all others"
    return PADS_READ, "the vector depends on the token states of pads"


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


def _how_pads_are_counted(edits: _Edits) -> tuple[PaddingBug, str]:
    seen, pads = edits.seen, edits.pads

    def stretched(x: Tensor) -> Tensor:
        x = x.clone()
        x[~pads.to(x.device)] *= seen.width / seen.length
        return x

    if edits.agree(edits.vector(stretched), seen.moved.alone):
        return DIVIDED_BY_WIDTH, "it equals that of the text alone if the token states are multiplied by width / length"
    if seen.start and (column := seen.length - 1) >= seen.start:
        only = torch.arange(len(pads)) == column
        if edits.reads(only) and not edits.reads(~only):
            return LAST_TOKEN_BY_COLUMN, f"the vector depends only on column {column}, the number of tokens minus one"
    alone = _Edits(_as_seen_alone(seen), edits.measured)
    last, last_alone = (
        torch.zeros_like(columns).index_fill(0, torch.tensor(place), True)
        for columns, place in ((pads, seen.start + seen.length - 1), (alone.pads, seen.length - 1))
    )
    if alone.reads(last_alone) and edits.reads(last) is False:
        return (
            CUT_TO_A_SHORTER_TEXT,
            "the token state of its last token is read in a batch of one, and not in the batch",
        )
    # A zero has no effect on a maximum of positive numbers, and is the maximum of negative ones.
    positive = edits.agree(*(runs.vector(_signed(~runs.pads, 1)) for runs in (edits, alone)))
    negative = [runs.vector(_signed(~runs.pads, sign)) for runs in (edits, alone) for sign in (-1, -2)]
    if positive and edits.agree(*negative[:2]) and not edits.agree(*negative[2:]):
        return (
            ZEROED_PADS,
            "it equals that of the text alone if all token states are positive, and does not depend on negative ones",
        )
    return (
        PADDED_LENGTH_READ,
        "no token state of a pad is read, and the token states of real tokens equal those of the text alone",
    )


def _signed(columns: Tensor, factor: float) -> Change:
    def change(x: Tensor) -> Tensor:
        x = x.clone()
        x[columns.to(x.device)] = factor * (x[columns.to(x.device)].abs() + 1)
        return x

    return change


def _as_seen_alone(seen: Seen) -> Seen:
    moved = replace(seen.moved, texts=seen.moved.texts[:1], place=0)
    return replace(seen, moved=moved, padded=seen.alone, start=0, row=0, batch=seen.alone, unpadded=True)
