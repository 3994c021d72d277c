"""Find bugs in the handling of a batch that no mask causes: rows out of order, cut texts, state between calls."""

from __future__ import annotations

from maskpool.audit.pipelines import Pipeline
from maskpool.audit.probes import Measured, difference
from maskpool.audit.report import Finding
from maskpool.leaks import CUT_TO_A_SHORTER_TEXT, ROWS_IN_ANOTHER_ORDER, STATE_KEPT


def mixed_up_finding(measured: Measured) -> Finding | None:
    """Report rows that hold the vectors of other texts of the batch."""
    alone = {moved.texts[0]: moved.alone for moved in measured.padded}
    threshold = measured.threshold
    for moved in measured.padded:
        if moved.size <= threshold:
            continue
        own, others = moved.texts[0], dict.fromkeys(text for text in moved.texts[1:] if text in alone)
        other = next((text for text in others if difference(moved.batched, alone[text]) <= threshold), None)
        if other is not None and difference(alone[own], alone[other]) > threshold:
            evidence = f"in a batch the row of {own!r} holds the vector of {other!r}"
            return Finding(ROWS_IN_ANOTHER_ORDER, evidence, moved.size, moved.texts)
    return None


def cut_finding(measured: Measured) -> Finding | None:
    """Report texts that lose tokens in a batch with shorter ones."""
    for moved in measured.padded:
        alone, batch = measured.alone.get(moved.texts[0]), measured.batches.get(moved.batch)
        if moved.size <= measured.threshold or alone is None or batch is None:
            continue
        for tokens in alone.tokens:
            ids = tokens.ids[0].tolist()
            for rows in (call.ids.tolist() for call in batch.tokens if call.module is tokens.module):
                if any(row[: len(ids)] == ids or row[-len(ids) :] == ids for row in rows):
                    continue
                cut = next((row for row in rows if len(row) < len(ids) and ids[: len(row) - 1] == row[:-1]), None)
                if cut is not None:
                    evidence = f"alone it is {len(ids)} tokens long, in the batch {len(cut)}"
                    return Finding(CUT_TO_A_SHORTER_TEXT, evidence, moved.size, moved.texts)
    return None


def state_finding(pipeline: Pipeline, measured: Measured) -> Finding | None:
    """Report vectors that depend on earlier calls, although equal calls in a row agree."""
    text, *others = sorted(measured.alone, key=len)
    for _ in range(2):
        pipeline([others[-1]])
        _, *again = [pipeline([text])[0] for _ in range(4)]  # the first may still depend on the other call
        if any(difference(again[0], vector) > measured.step for vector in again):
            return None
    evidence = f"after other calls the same call differs by {measured.repeated:.2g}, right after itself it does not"
    return Finding(STATE_KEPT, evidence, measured.repeated, (text,))
