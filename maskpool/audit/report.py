"""What an audit found, for people and for programs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

_SHOWN = 6  # texts of a finding that the report prints
Verdict = Literal["clean", "leaks", "unknown"]


@dataclass(frozen=True)
class Cause:
    """Something that can be wrong with a pipeline.

    Attributes:
        name: What findings call it.
        fix: What to do about it.
        leak: Whether it makes vectors depend on padding, or on other texts.
    """

    name: str
    fix: str
    leak: bool = True


CAUSES = {
    cause.name: cause
    for cause in (
        Cause(
            "mean over pads",
            "pool with the mask: maskpool.functional.mean_pool(token_embeddings, attention_mask)",
        ),
        Cause(
            "divided by the batch width",
            "divide by the number of real tokens, not by the padded length: maskpool.functional.mean_pool does",
        ),
        Cause("max over pads", "pool with the mask: maskpool.functional.max_pool(token_embeddings, attention_mask)"),
        Cause(
            "zeroed pads in a max",
            "a zero is larger than a negative feature: leave pads out instead, with maskpool.functional.max_pool",
        ),
        Cause(
            "last column taken as last token",
            "take the last real token of each text: maskpool.pool(token_embeddings, attention_mask, 'lasttoken')",
        ),
        Cause(
            "first column taken as cls",
            "under left padding the first column is a pad: pad on the right, or take the first real token with "
            "maskpool.functional.cls_pool",
        ),
        Cause(
            "pads read by the pooling",
            "pool only real tokens: give the mask to a layer of maskpool (maskpool.build_pooling)",
        ),
        Cause(
            "padded length read by the pooling",
            "count tokens, not columns: what a pooling divides by or weighs with must come from the mask, as in "
            "maskpool.build_pooling",
        ),
        Cause(
            "last token counted by column",
            "sum(mask) − 1 is the column of the last token only under right padding: use "
            "maskpool.functional.last_token_pool, which reads the mask",
        ),
        Cause(
            "position weights counted by column",
            "count positions from the first real token of each text, as "
            "maskpool.functional.position_weighted_mean_pool does, or pad on the right",
        ),
        Cause(
            "prompt counted by column",
            "under left padding the first columns are pads: leave the prompt out with "
            "maskpool.masks.exclude_prompt(attention_mask, prompt_length), or pad on the right",
        ),
        Cause(
            "NaN at pads read by the pooling",
            "0 × NaN is NaN: leave pads out with torch.where, as maskpool.functional.mean_pool does, instead of "
            "multiplying by the mask",
        ),
        Cause(
            "NaN in the encoder of padded texts",
            "a row of attention scores that are all −inf gives 0 / 0: mask with torch.finfo(dtype).min, or set the "
            "outputs of such rows to zero; torch.nan_to_num on the vectors only hides it",
        ),
        Cause(
            "NaN where texts are padded",
            "look for 0 / 0 in attention rows that see no token, and for a multiplication of pads by 0; pass the "
            "model, tokenizer and pooling to the audit so that it can look inside",
        ),
        Cause("mask not passed to the encoder", "pass attention_mask=… to the model together with input_ids"),
        Cause(
            "all-ones mask",
            "the mask says that pads are tokens: take the tokenizer's attention_mask, or make one of texts' lengths",
        ),
        Cause(
            "additive mask taken for a multiplicative one",
            "masks of tokens are 1 at real tokens and 0 at pads; an additive mask (0 and a large negative number), or "
            "an inverted one, is only for attention scores",
        ),
        Cause(
            "mask of other tokens",
            "the mask must be 1 at every token of the text and 0 at every pad: take the tokenizer's attention_mask",
        ),
        Cause(
            "other path where nothing is padded",
            "the encoder treats a batch without pads differently, so the same text has two vectors: give a mask of "
            "ones the same path as any other mask; do not drop it, and do not let is_causal depend on it",
        ),
        Cause(
            "pad token is end-of-text",
            "a mask made by input_ids != pad hides the end-of-text token of each text: take the tokenizer's "
            "attention_mask, or maskpool.masks.mask_from_input_ids(ids, pad, eos_token_id=pad), which keeps the first "
            "one, if that id ends each text",
        ),
        Cause(
            "position ids under left padding",
            "pass position_ids that count real tokens, or pad on the right (tokenizer.padding_side = 'right') and pool "
            "with the mask: [:, -1] is the last token under left padding only, maskpool.functional.last_token_pool "
            "under both",
        ),
        Cause(
            "position ids counted by column",
            "the pipeline passes position_ids that depend on the padded length: count the real tokens of each text "
            "from its first one, as the model does for a text alone",
        ),
        Cause(
            "mask ignored inside the encoder",
            "the encoder does not use the mask that it is given: fix its attention, or run texts of one length "
            "together",
        ),
        Cause(
            "convolution across pads",
            "set pads to zero before each convolution, or run texts of one length together",
        ),
        Cause(
            "recurrent state through pads",
            "pack the batch (torch.nn.utils.rnn.pack_padded_sequence), pad on the right for a causal state, or run "
            "texts of one length together",
        ),
        Cause(
            "normalisation over positions",
            "take the statistics over real tokens only: normalise over features (LayerNorm), or weight by the mask",
        ),
        Cause(
            "pads reach real tokens inside the encoder",
            "run texts of one length together, and look into the module that the evidence names",
        ),
        Cause(
            "coupling through the batch",
            "a text's vector depends on the other texts of its batch without any padding: call model.eval(), and "
            "compute statistics, routing and weights for each text separately, or once for all texts",
        ),
        Cause(
            "dynamic quantisation shared by the batch",
            "dynamic quantisation rounds the whole input by one scale, other texts and pads included: quantise weights "
            "only, use static scales or one scale per token, or run in floating point",
        ),
        Cause(
            "rows in another order",
            "give vectors back in the order of the texts: undo the sorting by length with the inverse permutation",
        ),
        Cause(
            "cut to a shorter text of the batch",
            "pad to the longest text of the batch (padding=True), and truncate by max_length only",
        ),
        Cause(
            "state kept between calls",
            "a vector depends on what was embedded before: clear buffers and caches, or key them by everything that "
            "their contents depend on",
        ),
        Cause(
            "vectors cached from a padded run",
            "empty the cache, fix the pipeline that filled it, and key it by everything that a vector depends on",
        ),
        Cause(
            "padding of unknown cause",
            "give the audit the model, tokenizer and pooling instead of a callable, so that it can look inside",
        ),
        Cause(
            "non-determinism",
            "the same call gives other vectors: call model.eval() so that dropout is off, or seed what draws numbers",
            leak=False,
        ),
    )
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        cause: A key of ``CAUSES``.
        evidence: What shows it, in a sentence with its numbers.
        size: The relative difference, ‖a − b‖ / max(‖a‖, ‖b‖), or what the evidence says.
        texts: The batch that shows it; the first is the text whose vector moves.
    """

    cause: str
    evidence: str
    size: float
    texts: tuple[str, ...] = ()

    @property
    def fix(self) -> str:
        """What to do about it."""
        return CAUSES[self.cause].fix

    @property
    def leak(self) -> bool:
        """Whether it makes vectors depend on padding, or on other texts."""
        return CAUSES[self.cause].leak


@dataclass(frozen=True)
class AuditReport:
    """What an audit found.

    Attributes:
        pipeline: What was audited.
        verdict: ``clean``, ``leaks`` or ``unknown``.
        findings: What is wrong, causes first.
        largest: The largest relative difference between a text alone and the same text in a padded batch.
        floor: The largest that has nothing to do with padding: numeric noise of this pipeline.
        threshold: What counts as a leak: max(1e-4, 20 × floor, 8 × the spacing of the coarsest numbers seen near 1).
        census: What the padding census says of the model's architecture; empty where no model of transformers was seen.
        notes: What else the reader must know; where the verdict is ``unknown``, the first says why and what would
            settle it.
        calls: How often the pipeline was called.
    """

    pipeline: str
    verdict: Verdict
    findings: tuple[Finding, ...]
    largest: float
    floor: float
    threshold: float
    census: str
    notes: tuple[str, ...]
    calls: int

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values; a size that is infinite, because a vector became NaN, is None."""
        report: dict[str, Any] = json.loads(json.dumps(asdict(self)), parse_constant=lambda _: None)
        for entry, finding in zip(report["findings"], self.findings, strict=True):
            entry |= {"fix": finding.fix, "leak": finding.leak}
        return report

    def __str__(self) -> str:
        """The report for people."""
        words = {
            "clean": "clean: no padding reaches the vectors",
            "leaks": "leaks: vectors depend on padding or on other texts",
            "unknown": "unknown: this run could not tell",
        }
        lines = [
            f"{self.pipeline}: {words[self.verdict]}",
            f"  largest difference between a text alone and in a padded batch {self.largest:.1e}, noise "
            f"{self.floor:.1e}, threshold {self.threshold:.1e} ({self.calls} calls)",
        ]
        for finding in self.findings:
            lines += [
                f"{'LEAK' if finding.leak else 'NOTE'}: {finding.cause}",
                f"  {finding.evidence}",
                *(
                    f"  {'text' if not number else 'with'}: {text!r}"
                    for number, text in enumerate(finding.texts[:_SHOWN])
                ),
                *([f"  with: {len(finding.texts) - _SHOWN} more"] if len(finding.texts) > _SHOWN else []),
                f"  fix: {finding.fix}",
            ]
        lines += [f"census: {self.census}"] if self.census else []
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])
