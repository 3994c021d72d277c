"""Decide whether a run without a leak could have shown one."""

from __future__ import annotations

from contextlib import ExitStack

from maskpool.audit.columns import has_doubtful_ends, real_columns
from maskpool.audit.edits import constant
from maskpool.audit.pooling_causes import is_clean_formula, is_pooling_of, vectors_on_the_way
from maskpool.audit.probes import Measured, difference
from maskpool.audit.seen import look_inside, never_padded, only_unknown_tokens
from maskpool.audit.trace import watch

ROUNDING = (
    "the largest difference, {:.1e}, may be rounding in half precision, or in int8 by scales that the texts of a batch "
    "share (dynamic quantisation): run the pipeline in float32"
)


def doubt(measured: Measured, random: bool) -> str:
    """Say why the run does not allow the verdict ``clean``, and what would settle it; empty if it does.

    Args:
        measured: The measurements of the probes.
        random: Whether equal calls of the pipeline as it was passed give different vectors.
    """
    if measured.loud:
        return (
            "equal calls give different vectors, so chance may hide a leak or look like one: switch the randomness off"
        )
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
            "the tokenizer gives all words the same id, so texts differ only in length: pass the "
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
    if _hidden_part(measured):
        return (
            "part of the vector does not come from the torch modules that were seen with token ids, so whether that "
            "part reads pads could not be seen: run the model of that part as a torch module, or audit it separately"
        )
    if measured.own_unpadded and has_doubtful_ends(measured.alone, measured.batches):
        return (
            "all rows have one width, and the token after each text may be its end or a pad, which have one id: "
            "pass a tokenizer that pads to the longest text of a batch"
        )
    if _all_encoders_were_padded(measured) or _some_text_ran_unpadded(measured):
        return ""
    if measured.respelled or (never_padded(measured) and _poolings_of_their_states(measured)):
        return ""
    if never_padded(measured):
        return (
            "each text runs without pads in the modules that were seen, but unseen code computes its vector from "
            "their token states, and may pad them: pass (model, tokenizer, pooling), or pool by a torch module"
        )
    if measured.own_unpadded:
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


def _all_encoders_were_padded(measured: Measured) -> bool:
    """Return whether each encoder ran some text with different numbers of pads."""
    pads = {
        (text, tokens.module): tokens.ids.shape[1] - (real.stop - real.start)
        for text, columns in real_columns(measured.alone, measured.batches).items()
        for real, tokens in zip(columns, measured.alone[text].tokens, strict=False)
    }
    varied = {
        seen.alone.module
        for seen in look_inside(measured)
        if seen.compared and seen.width - seen.length != pads.get((seen.moved.texts[0], seen.alone.module))
    }
    return bool(varied) and varied == {module for _, module in pads}


def _poolings_of_their_states(measured: Measured) -> bool:
    """Return whether the vectors of texts alone are poolings of the token states that were seen."""
    alone = {moved.texts[0]: moved.alone for moved in measured.padded}
    return any(
        is_pooling_of(tokens.states[:1], vectors_on_the_way(vector, [pooled[0] for pooled in call.pooled]))
        for text, vector in alone.items()
        if (call := measured.alone[text]).tokens
        for tokens in call.tokens
        if tokens.states is not None and len(tokens.states)
    )


def _some_text_ran_unpadded(measured: Measured) -> bool:
    """Return whether a text that is padded even alone has the vector of its unpadded run."""
    own = measured.own_unpadded
    alone = {moved.texts[0]: moved.alone for moved in measured.padded}
    same = (
        difference(alone[text], further.vector) <= measured.threshold
        for text, further in own.items()
        if further.vector is not None and text in alone
    )
    return any(same) or any(
        is_clean_formula(seen) for seen in look_inside(measured) if seen.compared and seen.moved.texts[0] in own
    )


def _hidden_part(measured: Measured) -> bool:
    """Return whether two texts of one length differ although all encoders that were seen return the same."""
    pipeline = measured.pipeline
    for texts in measured.equal:
        calls = [measured.alone.get(text) for text in texts[:1]]
        tokens = [token_call for call in calls if call is not None for token_call in call.tokens]
        if pipeline is None or not tokens:
            continue
        with ExitStack() as stack:
            modules = {module for token_call in tokens for module in (token_call.module, token_call.maker)}
            for module in filter(None, modules):
                stack.enter_context(constant(module))
            call = stack.enter_context(watch())
            try:
                vectors = [pipeline([text])[0] for text in texts]
            except ValueError:  # the pipeline refuses such states
                continue
        # Ignore vectors from a cache.
        if len(call.tokens) >= len(texts) and all(bool(vector.isfinite().all()) for vector in vectors):
            return difference(*vectors) > measured.threshold
    return False
