"""`explain`: the answers about the pads of a model, on tiny models and the bundled one."""

from __future__ import annotations

import copy
import json
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from torch.nn.functional import cosine_similarity, cross_entropy
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2Model,
    MambaConfig,
    MambaModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from maskpool.encoder import Encoder
from maskpool.errors import MaskpoolError
from maskpool.pads.explanation import TEXTS, Explanation, explain
from maskpool.pads.row import input_embedding
from maskpool.pads.training import Trained
from tests.bench import tiny
from tests.hosts import needs

WORDS = ["w1 w2 w3 red1", "w4", "blue2 blue3 w1 w2 w3 w5 w6", "w7 w8"]
SIZES = {"vocab_size": len(tiny.VOCABULARY), "num_attention_heads": 4, "num_hidden_layers": 2}
BERT = {"hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": 64} | SIZES
KEYS = ["zero_row", "tied", "padding_idx", "attention", "zeroing", "cosines", "token_types", "finite_mask"]
KEYS += ["mask_from_ids", "end_of_text", "input_gradient", "head_gradient", "weight_decay", "ignore_index"]
ADDITIVE_MASKS = ("transformers", "5.0", "older encoders take no additive masks")
OLD = Version(transformers.__version__) < Version(ADDITIVE_MASKS[1])
ANSWERED = {*KEYS} - ({"finite_mask"} if OLD else set())  # of encoders


def _drawn(model: PreTrainedModel) -> PreTrainedModel:
    """Draw random weights: norms are not the identity, rows not zero; no dropout."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + ("norm" in name.lower()))
    model.eval()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    return model


def _bert(kind: type[BertModel] = BertModel, **config: Any) -> Encoder:
    return Encoder.of(_drawn(kind(BertConfig(**(BERT | config)))), tiny.tokenizer())


def _gpt2(**config: Any) -> Encoder:
    """Build a GPT-2: its tokenizer adds nothing to a text, and its pads are end-of-text."""
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(tiny.VOCABULARY)}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        tokenizer_object=words, pad_token="[SEP]", eos_token="[SEP]", unk_token="[UNK]"
    )
    return Encoder.of(_drawn(GPT2Model(GPT2Config(n_embd=32, n_positions=64, **(SIZES | config)))), tokenizer)


class _Forgetful(BertModel):  # type: ignore[no-untyped-call]  # transformers leaves __init_subclass__ untyped
    """A BERT that ignores its mask."""

    def forward(self, *, attention_mask: Any, token_type_ids: Any = None, **rest: Any) -> Any:
        ones = torch.ones_like(attention_mask)
        return super().forward(attention_mask=ones, token_type_ids=token_type_ids, **rest)


@pytest.fixture(scope="module")
def bert() -> Explanation:
    torch.manual_seed(0)
    return explain(_bert(), WORDS)


@pytest.fixture(scope="module")
def gpt2() -> Explanation:
    torch.manual_seed(0)
    return explain(_gpt2(), WORDS)


@pytest.mark.full  # the real model; tiny models are explained by default
def test_the_bundled_models_row(minilm: tuple[Explanation, float]) -> None:
    """all-MiniLM-L6-v2 has a pad row of norm 0.77 among rows of 1.07, padding_idx 0, and is tied only in training."""
    explanation, _ = minilm
    row, tied, index = explanation["zero_row"], explanation["tied"], explanation["padding_idx"]
    assert row.number == pytest.approx(0.77, abs=0.005)
    assert row.numbers["mean row norm"] == pytest.approx(1.07, abs=0.005)
    assert row.sentence == "No: its norm is 0.767; the mean norm of a row is 1.07."
    assert (tied.number, tied.numbers) == (1, {"as loaded": 0, "config.tie_word_embeddings": 1})
    assert (index.number, index.numbers["tokenizer's pad id"]) == (0, 0)


@pytest.mark.full  # the real model; tiny models are explained by default
def test_the_bundled_models_pads(minilm: tuple[Explanation, float]) -> None:
    """In all-MiniLM-L6-v2 pads get no attention, and zeroing their row moves only pads, by about 5.4."""
    explanation, _ = minilm
    assert explanation["attention"].number == 0
    assert explanation["attention"].numbers["without a mask"] > 0.5
    assert explanation["zeroing"].number == 0
    # A largest difference depends on the texts: 4.8 to 5.5 over six draws of eight texts of BANKING77.
    assert explanation["zeroing"].numbers["at pads"] == pytest.approx(5.4, abs=0.6)
    for key in {"token_types", "finite_mask", "mask_from_ids", "end_of_text", "input_gradient"} & ANSWERED:
        assert explanation[key].number == 0, key


@pytest.mark.full  # the real model; tiny models are explained by default
@pytest.mark.parametrize(("kind", "known"), [("pad to pad", 0.92), ("word to pad", 0.20), ("word to word", 0.40)])
def test_the_bundled_models_cosines(minilm: tuple[Explanation, float], kind: str, known: float) -> None:
    """The known mean cosine of all-MiniLM-L6-v2 is in the range of these texts, and their mean within 0.15 of it."""
    cosines = minilm[0]["cosines"]
    mean = cosines.number if kind == "pad to pad" else cosines.numbers[kind]
    # The known figures were measured on other texts.
    assert cosines.numbers[f"{kind}, least"] - 0.005 <= known <= cosines.numbers[f"{kind}, most"] + 0.005
    assert mean == pytest.approx(known, abs=0.15)


@pytest.mark.full  # the real model; tiny models are explained by default
def test_the_bundled_models_training(minilm: tuple[Explanation, float]) -> None:
    """Training moves the pad row of all-MiniLM-L6-v2 through its tied head, with ignore_index equally far."""
    explanation, _ = minilm
    assert explanation["head_gradient"].number is not None
    assert explanation["head_gradient"].number > 0
    assert explanation["weight_decay"].number == pytest.approx(1e-3 * 0.01 * 0.7674, rel=0.01)
    ignored, without = explanation["ignore_index"].number, explanation["ignore_index"].numbers["without"]
    assert ignored is not None
    assert ignored > 0.01
    # The layers between encoder and matrix are drawn at random: 11% less to 3% more over eight seeds.
    assert ignored == pytest.approx(without, rel=0.15)


@pytest.mark.full  # the real model; tiny models are explained by default
def test_the_bundled_model_takes_seconds(minilm: tuple[Explanation, float]) -> None:
    """The explanation takes less than 30 seconds of processor time."""
    assert minilm[1] < 30


def test_the_default_texts_are_short() -> None:
    """Each default text has under 200 characters."""
    assert max(map(len, TEXTS)) < 200


def test_every_question_is_answered(bert: Explanation) -> None:
    """Each question has a sentence, a number and its source, in print and in JSON."""
    assert [answer.key for answer in bert] == KEYS
    printed, content = str(bert), json.loads(json.dumps(bert.to_dict(), allow_nan=False))
    assert [answer["key"] for answer in content["answers"]] == KEYS
    assert (content["model"], content["pad_token"], content["pad_token_id"]) == ("BertModel", "[PAD]", 0)
    for answer, entry in zip(bert, content["answers"], strict=True):
        assert answer.question in printed
        assert answer.sentence in printed
        assert f"from: {answer.source}" in printed
        if answer.key in ANSWERED:
            assert answer.source
            assert answer.number is not None
            assert answer.sentence.endswith(".")
        assert (entry["number"], entry["numbers"]) == (answer.number, dict(answer.numbers))
        assert answer.question.endswith("?")


def test_a_zero_row() -> None:
    """A pad row of zeros is reported: zeroing and decay do not change it, a tied head does."""
    encoder = _bert()
    with torch.no_grad():
        input_embedding(encoder.model).weight[0] = 0
    explanation = explain(encoder, WORDS)
    assert explanation["zero_row"].number == 0
    assert explanation["zero_row"].sentence.startswith("Yes")
    assert (explanation["zeroing"].number, explanation["zeroing"].numbers["at pads"]) == (0, 0)
    assert explanation["weight_decay"].number == 0
    assert explanation["head_gradient"].number is not None
    assert explanation["head_gradient"].number > 0, "a zero row does not stay zero under a tied head"


def test_an_untied_bert_keeps_its_row() -> None:
    """Without a tied head, only decay moves the row of padding_idx."""
    explanation = explain(_bert(tie_word_embeddings=False), WORDS)
    assert (explanation["tied"].number, explanation["tied"].numbers["config.tie_word_embeddings"]) == (0, 0)
    assert explanation["head_gradient"].number == 0
    assert explanation["head_gradient"].numbers["in the head's row"] > 0
    assert (explanation["ignore_index"].number, explanation["ignore_index"].numbers["without"]) == (0, 0)
    assert explanation["weight_decay"].number


def test_an_untied_gpt2_moves_its_row_only_with_pads() -> None:
    """Without a tied head or padding_idx, the row moves only if pads are targets, and ignore_index stops it."""
    explanation = explain(_gpt2(tie_word_embeddings=False), WORDS)
    assert explanation["tied"].number == 0
    assert explanation["ignore_index"].number == 0
    assert explanation["ignore_index"].sentence.startswith("Yes")
    assert explanation["ignore_index"].numbers["without"] > 0


def test_another_padding_idx() -> None:
    """A padding_idx that differs from the tokenizer's pad id, or is not set, is reported."""
    encoder = _bert()
    other = replace(encoder, tokenizer=tiny.tokenizer(pad_token="[UNK]"))
    answer = explain(other, WORDS)["padding_idx"]
    assert (answer.number, answer.numbers["tokenizer's pad id"]) == (0, 1)
    assert "the wrong row" in answer.sentence
    input_embedding(encoder.model).padding_idx = None
    answer = explain(encoder, WORDS)["padding_idx"]
    assert answer.number is None
    assert "not set" in answer.sentence


def test_a_mask_that_is_ignored() -> None:
    """In a model that ignores its mask, pads get the attention that a loop computes, and zeroing moves real tokens."""
    encoder = _bert(_Forgetful)
    explanation = explain(encoder, WORDS)
    ids, _ = encoder.tokenize(WORDS)
    eager: Any = copy.deepcopy(encoder.model)
    eager.set_attn_implementation("eager")
    forward = super(_Forgetful, eager).forward  # the plant itself requires a mask
    most = 0.0
    width = max(map(len, ids)) + 16
    for tokens in ids:
        for start in (0, width - len(tokens)):
            row = [0] * start + tokens
            row += [0] * (width - len(row))
            for layer in forward(torch.tensor([row]), output_attentions=True).attentions:
                for head in layer[0]:
                    for query in range(start, start + len(tokens)):
                        on_pads = head[query].sum() - head[query, start : start + len(tokens)].sum()
                        most = max(most, on_pads.item())
    assert explanation["attention"].number == pytest.approx(most, rel=1e-4)
    assert explanation["attention"].numbers["without a mask"] == explanation["attention"].number
    assert explanation["attention"].sentence.startswith("Up to")
    assert explanation["zeroing"].number is not None
    assert explanation["zeroing"].number > 0.01
    assert "moves real tokens by up to" in explanation["zeroing"].sentence
    assert explanation["token_types"].number is not None
    assert explanation["token_types"].number > 0.01


def test_cosines_are_means_over_pairs_then_over_texts() -> None:
    """A cosine is the mean over pairs of positions of a text, then over the texts."""
    encoder = _bert()
    cosines = explain(encoder, WORDS)["cosines"]
    ids, _ = encoder.tokenize(WORDS)
    states, mask = encoder.states(ids, max(map(len, ids)) + 16)
    kinds: dict[str, list[float]] = {"pad to pad": [], "word to pad": [], "word to word": []}
    for row, real in zip(states, mask.bool().tolist(), strict=True):
        pairs: dict[str, list[float]] = {name: [] for name in kinds}
        for i in range(len(row)):
            for j in range(i):
                name = {0: "pad to pad", 1: "word to pad", 2: "word to word"}[real[i] + real[j]]
                pairs[name].append(cosine_similarity(row[i], row[j], dim=0).item())
        for name, values in pairs.items():
            kinds[name].append(float(np.mean(values)))
    assert cosines.number == pytest.approx(np.mean(kinds["pad to pad"]), abs=1e-5)
    for name in ("word to pad", "word to word"):
        assert cosines.numbers[name] == pytest.approx(np.mean(kinds[name]), abs=1e-5)
        assert cosines.numbers[f"{name}, least"] == pytest.approx(min(kinds[name]), abs=1e-5)
        assert cosines.numbers[f"{name}, most"] == pytest.approx(max(kinds[name]), abs=1e-5)


def test_the_tied_gradient_comes_through_the_head() -> None:
    """The gradient through the separated head equals that of the tied row: the inputs add nothing."""
    encoder = _bert()
    explanation = explain(encoder, WORDS)
    torch.manual_seed(0)  # explain draws the head's own layers from this seed
    trained = Trained.of(encoder.model, None).model
    ids, _ = encoder.tokenize(WORDS)
    for tokens in ids:
        row = torch.tensor([tokens])
        loss = cross_entropy(trained(row).logits[0], row[0]) / len(ids)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    gradient = input_embedding(trained).weight.grad
    assert gradient is not None
    assert explanation["input_gradient"].number == 0
    assert explanation["head_gradient"].number == pytest.approx(gradient[0].norm().item(), rel=1e-4)


@needs(*ADDITIVE_MASKS)
def test_minus_10000_is_not_enough_for_large_scores() -> None:
    """If scores exceed 10000, a mask of -10000 lets pads in; the smallest number does not."""
    encoder = _bert()
    with torch.no_grad():
        for name, parameter in encoder.model.named_parameters():
            if "query.weight" in name or "key.weight" in name:
                parameter.mul_(100)
    answer = explain(encoder, WORDS)["finite_mask"]
    assert answer.number is not None
    assert answer.number > 0.01
    assert answer.numbers["attention at -10000"] > 0.5
    assert answer.numbers["attention at the minimum"] == 0
    assert answer.sentence.startswith("No: real tokens differ")


def test_a_gpt2(gpt2: Explanation) -> None:
    """A causal model has no token types and no padding_idx; the other questions have answers."""
    assert gpt2["padding_idx"].number is None
    assert gpt2["token_types"].sentence == "does not apply, because a GPT2Model has no token types"
    assert gpt2["tied"].number == 1
    assert "GPT2LMHeadModel" in gpt2["tied"].sentence
    for key in ("attention", "zeroing", "finite_mask", "input_gradient"):
        assert gpt2[key].number == 0, key
    for key in ("head_gradient", "weight_decay", "ignore_index", "zero_row"):
        assert gpt2[key].number, key
    assert gpt2["attention"].numbers["without a mask"] > 0.5, "pads on the left are seen"


def test_pad_is_end_of_text(gpt2: Explanation) -> None:
    """If pad = end-of-text, labels lose one end-of-text token per text, and a mask made from ids hides as many."""
    ended = gpt2["end_of_text"]
    assert (ended.number, ended.numbers["same"]) == (len(WORDS), 1)
    assert ended.numbers["real tokens"] == 14 + len(WORDS)
    assert f"drops {len(WORDS)} real end-of-text tokens" in ended.sentence
    assert gpt2["mask_from_ids"].number == 0, "this tokenizer adds no end-of-text token"
    closing = replace(_bert(), tokenizer=tiny.tokenizer(pad_token="[SEP]", eos_token="[SEP]"))
    explanation = explain(closing, WORDS)
    assert explanation["mask_from_ids"].number == len(WORDS)
    assert explanation["mask_from_ids"].sentence.startswith(
        "No on these texts: input_ids != 3 hides 4 of 22 real tokens"
    )
    assert explanation["end_of_text"].number == len(WORDS)
    assert explanation["input_gradient"].number == 0, "a batch without pads has none of these tokens"


def test_a_t5_encoder() -> None:
    """Questions about training do not apply to an encoder without a language model; the others do."""
    model = T5EncoderModel(T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, vocab_size=80))
    explanation = explain(Encoder.of(_drawn(model), tiny.tokenizer()), WORDS)
    reason = "does not apply, because transformers has no masked or causal language model around a T5"
    for key in ("tied", "input_gradient", "head_gradient", "ignore_index"):
        assert explanation[key].sentence.startswith(reason), key
        assert (explanation[key].number, explanation[key].numbers, explanation[key].source) == (None, {}, "")
    assert explanation["token_types"].number is None
    for key in {"attention", "zeroing", "finite_mask"} & ANSWERED:
        assert explanation[key].number == 0, key
    assert explanation["zeroing"].numbers["at pads"] > 0


def test_missing_parts() -> None:
    """For a model without attention or token types, the answer says what is missing."""
    mamba = MambaModel(MambaConfig(vocab_size=80, hidden_size=32, state_size=4, num_hidden_layers=2))
    explanation = explain(Encoder.of(_drawn(mamba), tiny.tokenizer()), WORDS)
    assert explanation["attention"].sentence.startswith("does not apply, because")
    assert explanation["finite_mask"].sentence.startswith("does not apply, because")
    distil = DistilBertConfig(dim=32, hidden_dim=48, n_layers=2, n_heads=4, vocab_size=80, max_position_embeddings=64)
    explanation = explain(Encoder.of(_drawn(DistilBertModel(distil)), tiny.tokenizer()), WORDS)
    assert explanation["token_types"].sentence == "does not apply, because a DistilBertModel has no token types"
    assert explanation["head_gradient"].number


def test_a_tokenizer_without_a_pad_token() -> None:
    """Without a pad token, questions about its row do not apply; the others use a substitute."""
    explanation = explain(replace(_bert(), tokenizer=tiny.tokenizer(pad_token=None)), WORDS)
    assert "no pad token" in str(explanation).split("\n")[0]
    for key in ("zero_row", "padding_idx", "zeroing", "mask_from_ids", "end_of_text", "weight_decay", "ignore_index"):
        assert explanation[key].sentence == "does not apply, because the tokenizer has no pad token", key
        assert explanation[key].number is None
    assert explanation["attention"].number == 0


def test_a_pad_token_beyond_the_matrix() -> None:
    """A pad token without a row in the model is reported."""
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[NEW]"})
    explanation = explain(replace(_bert(), tokenizer=tokenizer), WORDS)
    reason = f"does not apply, because the pad id {len(tiny.VOCABULARY)} is not a row of the embedding matrix"
    for key in ("zero_row", "attention", "zeroing", "cosines", "ignore_index"):
        assert explanation[key].sentence.startswith(reason), key


def test_a_model_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that fails at one question answers the others; its error is shortened to one line."""
    encoder = _bert()

    def fail(*_: object) -> None:
        raise NotImplementedError("not here\nnor there")

    monkeypatch.setattr(BertModel, "set_attn_implementation", fail)
    explanation = explain(encoder, WORDS)
    assert explanation["attention"].sentence == "does not apply, because the model raised NotImplementedError: not here"
    assert explanation["zeroing"].number == 0


def test_a_model_without_additive_masks() -> None:
    """The answer for a model that refuses additive masks names the version of transformers."""

    class Plain(BertModel):  # type: ignore[no-untyped-call]  # transformers leaves __init_subclass__ untyped
        def forward(self, *, attention_mask: Any, **rest: Any) -> Any:
            if attention_mask.ndim > 2:
                raise ValueError("wrong shape")
            return super().forward(attention_mask=attention_mask, **rest)

    answer = explain(_bert(Plain), WORDS)["finite_mask"]
    expected = "does not apply, because a Plain takes no additive mask (batch, 1, seq, seq) in place of its own in "
    expected += f"transformers {transformers.__version__}"
    expected += "; encoders like BERT take one in transformers>=5.0" if OLD else ""
    assert (answer.sentence, answer.number) == (expected, None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    """A model in half precision answers every question; it is trained in float32."""
    encoder = _bert()
    encoder.model.to(dtype)  # type: ignore[arg-type]  # transformers wraps nn.Module.to without its types
    explanation = explain(encoder, WORDS)
    assert all(answer.number is not None for answer in explanation if answer.key in ANSWERED)
    assert (explanation["zeroing"].number, explanation["attention"].number) == (0, 0)
    assert Trained.of(encoder.model, None).model.dtype == torch.float32


def test_few_positions_leave_room_for_pads() -> None:
    """In a model with few positions, long texts are cut to leave room for pads."""
    encoder = _bert(max_position_embeddings=12)
    explanation = explain(encoder, [" ".join(["w1"] * 40), "w2"])
    assert "padded to 12 tokens" in explanation["zeroing"].source
    assert explanation["cosines"].number is not None


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_nothing_is_written(mode: Any) -> None:
    """Parameters, gradients, hooks, modes, config, tokenizer and random states are unchanged."""
    encoder = _bert()
    model: Any = encoder.model
    model.train()
    model.encoder.eval()
    handle = model.register_forward_hook(lambda *_: None)
    model.pooler.requires_grad_(False)

    def state() -> tuple[Any, ...]:
        return (
            [(name, value.data_ptr(), value._version, value.tolist()) for name, value in model.state_dict().items()],
            [(parameter.requires_grad, parameter.grad) for parameter in model.parameters()],
            [(name, module.training, list(module._forward_hooks)) for name, module in model.named_modules()],
            [list(module._forward_pre_hooks) for module in model.modules()],
            (str(model.config.to_dict()), model.config._attn_implementation),
            (encoder.tokenizer.backend_tokenizer.padding, encoder.tokenizer.backend_tokenizer.truncation),
            (torch.random.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())),
            (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()),
        )

    before = state()
    with mode():
        inside = explain(encoder, WORDS)
    assert state() == before
    handle.remove()
    assert str(explain(encoder, WORDS)) == str(inside), "a second explanation is equal"


def test_existing_gradients_are_kept() -> None:
    """Gradients of a model are neither used nor dropped."""
    encoder = _bert()
    plain = explain(encoder, WORDS)
    for parameter in encoder.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert str(explain(encoder, WORDS)) == str(plain)
    assert all(parameter.grad is not None and parameter.grad.min() == 1 for parameter in encoder.model.parameters())


def test_bad_input_is_refused() -> None:
    """A module that is not a model, texts without tokens and unknown names are refused."""
    with pytest.raises(TypeError, match=r"model must be a name, a folder or an Encoder, got Linear: see Encoder\.of"):
        explain(nn.Linear(1, 1))  # type: ignore[arg-type]  # the wrong type on purpose
    with pytest.raises(TypeError, match=r"texts must be a list of strings, got one str"):
        explain(_bert(), "w1")
    for texts in ([], [""]):
        with pytest.raises(ValueError, match=rf"texts must hold a text with a token, got {len(texts)}"):
            explain(_gpt2(), texts)
    with pytest.raises(MaskpoolError, match="could not be loaded"):
        explain("no-such-model")
