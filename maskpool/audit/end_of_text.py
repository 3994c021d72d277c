"""Find masks and poolings that hide the end of a text because its last token has the pad id."""

from __future__ import annotations

import math

from maskpool.audit.pooling_causes import same
from maskpool.audit.probes import Measured
from maskpool.audit.report import Finding
from maskpool.audit.seen import Seen
from maskpool.leaks import MASK_OF_OTHER_TOKENS, PAD_IS_END_OF_TEXT, all_formulas


def unpooled_end_finding(seen: Seen) -> Finding | None:
    """Report a pooling that excludes real tokens because they have the pad id."""
    states, ids, real = seen.padded.states, seen.padded.ids[0].cpu(), seen.real[0].cpu()
    kept = real & (ids != ids[~real][0])
    if states is None or bool((kept == real).all()) or not bool(kept.any()):
        return None
    x = states[0].double().cpu()
    if any(same(seen.moved.batched, right()) for right in all_formulas(x[real]).values()):
        return None
    formula = next((name for name, left in all_formulas(x[kept]).items() if same(seen.moved.batched, left())), None)
    if formula is None:
        return None
    hidden = int(real.sum() - kept.sum())
    evidence = f"its vector is {formula} without {hidden} of its {seen.length} tokens, which have the pad's id"
    inner = bool((~kept[real])[1:-1].any())
    cause = MASK_OF_OTHER_TOKENS if inner else PAD_IS_END_OF_TEXT
    return Finding(cause, evidence, hidden / seen.length, seen.moved.texts)


def hidden_tokens_finding(measured: Measured) -> Finding | None:
    """Report a mask that hides a token of a text alone, where nothing is padded."""
    hidden_ids = []
    for text, call in measured.alone.items():
        if not call.tokens or call.tokens[0].mask is None:
            return None
        row = call.tokens[0].row(0)
        mask = row.mask
        if mask is None or mask.shape != row.ids.shape or not set(mask.float().flatten().tolist()) <= {0.0, 1.0}:
            return None
        hidden_ids.append((text, row.ids.shape[1], row.ids[0][mask[0] == 0].tolist()))
    # If texts are padded to one width, or to multiples, the mask hides those columns.
    counts, widths = {len(hidden) for _, _, hidden in hidden_ids}, [width for _, width, _ in hidden_ids]
    if len(counts) != 1 or 0 in counts or math.gcd(*widths) != 1:
        return None
    text, width, hidden = hidden_ids[0]
    if len(set(hidden)) != 1 or len(hidden) == width:
        return None
    evidence = f"alone, where nothing is padded, the mask hides {len(hidden)} of {width} tokens, of id {hidden[0]}"
    return Finding(PAD_IS_END_OF_TEXT, evidence, len(hidden) / width, (text,))
