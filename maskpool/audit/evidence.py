"""Whether a run that shows no leak could have shown one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskpool.audit.pooling_causes import is_clean_formula
from maskpool.audit.probes import difference
from maskpool.audit.seen import look_inside, never_padded, only_unknown_tokens, real_columns

if TYPE_CHECKING:
    from maskpool.audit.probes import Measured

ROUNDING = "the largest difference, {:.1e}, may be rounding in half precision: run the pipeline in float32"


def doubt(measured: Measured, random: bool) -> str:
    """Say why the run does not allow the verdict ``clean``, and what would settle it; empty if it does.

    Args:
        measured: What the probes found.
        random: Whether equal calls of the pipeline as it was passed give different vectors.
    """
    if measured.loud:
        return "equal calls give different vectors, so no leak could be told from chance: switch the randomness off"
    if random:
        return (
            "equal calls of the pipeline as it is give different vectors; nothing was found in evaluation mode, which "
            "hides what happens in training mode only: call model.eval() in the pipeline and audit it again"
        )
    if measured.vacuous:
        return (
            "all texts get the same vector, so nothing can be said about padding: pass other texts, or check the model"
        )
    if measured.doubtful:
        return ROUNDING.format(measured.padded[0].size)
    if only_unknown_tokens(measured.alone):
        return (
            "the tokenizer gives all words the same id, so no text differs from another but by its length: pass the "
            "tokenizer that belongs to the model, or texts in its language"
        )
    if measured.inside:
        return _doubt_inside(measured)
    return (
        "no vector changed, and nothing shows that the pipeline ever padded a text differently: one that pads every "
        "text to the same width looks like this, and so does one that does not pad at all. To settle it, pass (model, "
        "tokenizer, pooling), a SentenceTransformer, or a function that runs the torch model in this process"
    )


def _doubt_inside(measured: Measured) -> str:
    inside, own = look_inside(measured), measured.own_unpadded
    alone = {moved.texts[0]: moved.alone for moved in measured.padded}
    pads_alone = {
        text: call.tokens[0].ids.shape[1] - (real[0].stop - real[0].start)
        for text, real in real_columns(measured.alone, measured.beside).items()
        if (call := measured.alone[text]).tokens and real
    }
    for seen in inside:  # with different numbers of pads
        if seen.compared and seen.width - seen.length != pads_alone.get(seen.moved.texts[0]):
            return ""
    compared = [
        text
        for text, further in own.items()
        if further.vector is not None and text in alone
        if difference(alone[text], further.vector) <= measured.threshold
    ]
    if compared or any(is_clean_formula(seen) for seen in inside if seen.compared and seen.moved.texts[0] in own):
        return ""
    if measured.respelled or never_padded(measured):
        return ""
    if own:
        return (
            "every text is padded to the same width, and the pipeline does not run without these pads, so it could not "
            "be compared with an unpadded run: pass (model, tokenizer, pooling) with a tokenizer that pads to the "
            "longest text of a batch"
        )
    lengths = {call.tokens[0].ids.shape[1] for call in measured.alone.values() if call.tokens}
    if len(lengths) == 1:
        return (
            f"all texts are {lengths.pop()} tokens long for the model, so none was ever padded: pass texts of "
            "different lengths, or a tokenizer that pads to the longest text of a batch"
        )
    return (
        "no text could be followed into a padded row, so nothing shows that any was padded: pass (model, tokenizer, "
        "pooling), or a function that gives the model the same token ids for a text alone and in a batch"
    )
