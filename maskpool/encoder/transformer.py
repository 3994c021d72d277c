"""Turn texts into token states: load a transformer, tokenise texts, run the model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from maskpool.encoder.annotations import PreTrainedModel, PreTrainedTokenizerBase
from maskpool.errors import FolderError, InvalidTypeError, InvalidValueError, RequirementError
from maskpool.trust import EXPLICIT, Folder, as_folder_error, no_panics, no_questions
from maskpool.trust.devices import find_device
from maskpool.trust.models import BUNDLED, BUNDLED_NAMES, BUNDLED_SHA256, find_model, naming_model
from maskpool.trust.sizes import check_size, check_token_ids, naming_tokenizer, refuse_partial
from maskpool.types import Side

_FALLBACK_MAX_LENGTH = 512
_TOKENIZED_TOGETHER = 1_000  # limits memory: a tokenizer's result for a text is many times larger than its ids
# Encoders that are saved without the decoder of their family; AutoModel opens each with its decoder.
_ENCODERS = (
    "LongT5EncoderModel",
    "MT5EncoderModel",
    "SwitchTransformersEncoderModel",
    "T5EncoderModel",
    "T5GemmaEncoderModel",
    "UMT5EncoderModel",
)
DTYPES = ("float32", "float64", "bfloat16", "float16")


@dataclass(frozen=True)
class Encoder:
    """Hold a frozen transformer in evaluation mode with its tokenizer.

    Attributes:
        name: The name that the user gave.
        model: The transformer; for an encoder-decoder, the encoder.
        tokenizer: The tokenizer. A tokenizer without a pad token pads with its end-of-text token; the mask still
            separates these pads from real tokens.
        max_length: Tokens of a text beyond this number are cut off.
        weights_sha256: Hash of the weights, if it was checked.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    weights_sha256: str | None = None

    @classmethod
    def load(cls, name: str = BUNDLED, device: str = "cpu", dtype: str = "float32") -> Encoder:
        """Load a model by hub name or folder; the default model comes with an installed package.

        Every file is vetted before it is opened: code in the folder is not run, files outside the folder are not read,
        and the user is not asked on the terminal.

        Args:
            name: A name on the hub, or a folder.
            device: The device that the model runs on.
            dtype: The dtype that the model computes in, one of ``DTYPES``.

        Raises:
            NotFoundError: The model does not exist.
            FolderError: A file is malformed, or refers to code or to something outside the folder, or the weights
                belong to another model.
            DeviceError: Torch cannot use the device.
            RequirementError: A package is missing.
            InvalidValueError: ``dtype`` is unknown.
        """
        try:
            from transformers import AutoConfig, AutoTokenizer
        except ModuleNotFoundError as error:
            raise RequirementError(
                f'{error.name} is not installed; get it with: pip install "maskpool[bench]"'
            ) from None
        if dtype not in DTYPES:
            raise InvalidValueError("dtype", f"must be one of {', '.join(DTYPES)}, got {dtype!r}")
        where = find_device(device)
        folder = find_model(name)
        silence_transformers()
        with (
            naming_model(name),
            as_folder_error(str(folder)),
            no_questions(),
            naming_tokenizer(str(folder)),
        ):
            config = AutoConfig.from_pretrained(str(folder), **EXPLICIT)
            check_size(str(folder), config)
            tokenizer = AutoTokenizer.from_pretrained(str(folder), **EXPLICIT)
            model, info = _class_for(config).from_pretrained(
                str(folder), dtype=getattr(torch, dtype), weights_only=True, output_loading_info=True, **EXPLICIT
            )
            refuse_partial(str(folder), model, info)
            model = text_encoder(model)
            check_token_ids(str(folder), tokenizer, model)
            max_length = token_limit(tokenizer, model, str(folder))
        if tokenizer.pad_token is None:
            if tokenizer.eos_token is None:
                raise FolderError(
                    f"must be a model with a tokenizer that can pad; that of {name!r} has neither a pad token nor an "
                    "end-of-text token: set tokenizer.pad_token and save it next to the model",
                    argument="name",
                )
            tokenizer.pad_token = tokenizer.eos_token
        model.to(where).eval()  # type: ignore[arg-type]  # transformers wraps nn.Module.to without its types
        return cls(name, model, tokenizer, max_length, BUNDLED_SHA256 if name in BUNDLED_NAMES else None)

    @classmethod
    def of(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None) -> Encoder:
        """Wrap a loaded model and tokenizer without changing them; the model keeps its dtype and mode.

        A model with a head is reduced to its base, and an encoder-decoder to its encoder.

        Args:
            model: Any transformers model that reads token ids.
            tokenizer: The model's tokenizer.
            max_length: Tokens of a text beyond this number are cut off; None reads the limit from the tokenizer and
                the model.
        """
        limit = token_limit(tokenizer, model) if max_length is None else max_length
        return cls(model.name_or_path or type(model).__name__, text_encoder(model), tokenizer, limit)

    @property
    def dimension(self) -> int:
        """Return the width of a token state."""
        return int(self.model.config.hidden_size)

    @property
    def special_tokens(self) -> int:
        """Return the number of tokens that the tokenizer adds to each text."""
        return self.tokenizer.num_special_tokens_to_add()

    @property
    def pad_token_id(self) -> int:
        """Return the id used at pads: that of the pad token, else of the end-of-text token, else 0."""
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if isinstance(token, int):
                return token
        return 0

    def tokenize(self, texts: Sequence[str]) -> tuple[list[list[int]], int]:
        """Return the token ids of each text, special tokens included, and the number of texts that were cut off."""
        ids, cut_off = self.tokenize_marked(texts)
        return ids, sum(cut_off)

    def tokenize_marked(self, texts: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
        """Return the token ids of each text, special tokens included, and whether each text was cut off."""
        ids: list[list[int]] = []
        for start in range(0, len(texts), _TOKENIZED_TOGETHER):
            chunk = list(texts[start : start + _TOKENIZED_TOGETHER])
            with no_panics(f"the tokenizer of {self.name} must be able to read all texts"):
                ids += self.tokenizer(chunk, truncation=False, verbose=False)["input_ids"]
        long = [i for i, tokens in enumerate(ids) if len(tokens) > self.max_length]
        if long:
            cut = self.tokenizer([texts[i] for i in long], truncation=True, max_length=self.max_length)
            for i, tokens in zip(long, cut["input_ids"], strict=True):
                ids[i] = tokens
        cut_off = set(long)
        return ids, [i in cut_off for i in range(len(ids))]

    def pad(
        self, ids: Sequence[Sequence[int]], width: int | None = None, side: Side = "right"
    ) -> tuple[Annotated[Tensor, "batch seq"], Annotated[Tensor, "batch seq"]]:
        """Return token ids padded on one side, and their mask, on the model's device.

        Args:
            ids: Token ids of each text.
            width: Padded length; None pads to the longest.
            side: The side of the pads.
        """
        width = max((len(tokens) for tokens in ids), default=0) if width is None else width
        padded = torch.full((len(ids), width), self.pad_token_id)
        mask = torch.zeros_like(padded)
        for row, tokens in enumerate(ids):
            real = slice(len(tokens)) if side == "right" else slice(width - len(tokens), width)
            padded[row, real] = torch.tensor(tokens, dtype=torch.int64)
            mask[row, real] = 1  # by length, not by id: the pad token may also occur as a real token
        return padded.to(self.model.device), mask.to(self.model.device)

    @torch.inference_mode()
    def states(
        self, ids: Sequence[Sequence[int]], width: int | None = None
    ) -> tuple[Annotated[Tensor, "batch seq dim"], Annotated[Tensor, "batch seq"]]:
        """Return the last layer's outputs, pads included, and the mask; texts are padded on the right.

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
        side: Side = "right",
        masked: bool = True,
    ) -> list[Annotated[Tensor, "batch seq dim"]]:
        """Return the outputs of several layers, pads included, from one forward pass.

        Args:
            ids: Token ids of each text.
            layers: As in `token_states`.
            width: Padded length; None pads to the longest.
            side: The side of the pads; the model learns it from the mask only.
            masked: Whether to pass the mask to the model; without it, the model treats every position as a token.

        Raises:
            ValueError: The model does not have the layer.
        """
        input_ids, mask = self.pad(ids, width, side)
        model_mask = mask if masked else torch.ones_like(mask)
        if len(set(layers) - {0}) <= 1:
            return [token_states(self.model, input_ids, model_mask, layer) for layer in layers]
        all_states = layer_states(self.model, input_ids, model_mask)
        outputs = []
        for layer in layers:
            check_layer(layer, len(all_states))
            outputs.append(token_states(self.model, input_ids, model_mask, 0) if layer == 0 else all_states[layer])
        return outputs

    def identity(self) -> dict[str, str | int | None]:
        """Describe the model and its weights, for the results that are measured on it."""
        return {
            "name": self.name,
            "type": self.model.config.model_type,
            "dimension": self.dimension,
            "max_length": self.max_length,
            "pad_token": str(self.tokenizer.pad_token),
            "padding_side": self.tokenizer.padding_side,
            "weights_sha256": self.weights_sha256 or weights_hash(self.model),
        }


def silence_transformers() -> None:
    """Let transformers print nothing but errors, and no progress bars."""
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the same


def _class_for(config: Any) -> Any:  # Any: transformers' auto classes are not models
    """Return the class that opens a model: AutoModel, or one of ``_ENCODERS`` if the folder holds only an encoder."""
    import transformers

    for name in config.architectures or ():
        encoder = getattr(transformers, name, None) if name in _ENCODERS else None  # older versions lack some
        if encoder is not None and encoder.config_class is type(config):
            return encoder
    return transformers.AutoModel


def token_limit(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, source: str | None = None) -> int:
    """Return the maximum number of tokens per text: the lowest limit of the model, its tokenizer and its folder.

    Raises:
        FolderError: The folder's ``sentence_bert_config.json`` cannot be read.
    """
    limits = [tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None)]
    positions = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    if isinstance(positions, nn.Embedding) and positions.padding_idx is not None:
        limits.append(positions.num_embeddings - positions.padding_idx - 1)  # RoBERTa counts from after the pad's id
    folder = Path(source or str(getattr(model, "name_or_path", "")))
    if folder.is_dir():
        limits.append((Folder(folder).table("sentence_bert_config.json") or {}).get("max_seq_length"))
    # Tokenizers without a limit report a number of thirty digits.
    known = [limit for limit in limits if isinstance(limit, int) and 0 < limit < 10**6]
    return min(known, default=_FALLBACK_MAX_LENGTH)


def text_encoder(model: PreTrainedModel) -> PreTrainedModel:
    """Return the part of a model that computes token states: the base without a head, or the encoder."""
    base: PreTrainedModel = model.base_model  # type: ignore[assignment]  # transformers says any module
    # An encoder that is saved alone may have the configuration of the whole model.
    return base.get_encoder() if base.config.is_encoder_decoder or type(base).__name__ in _ENCODERS else base


def token_states(
    model: PreTrainedModel,
    input_ids: Annotated[Tensor, "batch seq"],
    attention_mask: Annotated[Tensor, "batch seq"],
    layer: int = -1,
) -> Annotated[Tensor, "batch seq dim"]:
    """Return one layer's outputs, pads included.

    Args:
        model: A model from `text_encoder`.
        input_ids: (batch, seq).
        attention_mask: (batch, seq), 1 at real tokens.
        layer: -1 for the last layer; 0 for the rows of the embedding matrix, which depend on neither position nor
            neighbours; else an index of transformers' ``hidden_states``.

    Raises:
        ValueError: The model does not have the layer.
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
        layer: As in `token_states`.
        states: Number of hidden states of the model, the input of its first layer included.

    Raises:
        ValueError: The model does not have the layer.
    """
    if not -states < layer < states:
        raise InvalidValueError(
            "layer", f"must be 0 (embeddings), 1 to {states - 1}, or -1 to -{states - 1}, got {layer}"
        )


def layer_states(
    model: PreTrainedModel, input_ids: Annotated[Tensor, "batch seq"], attention_mask: Annotated[Tensor, "batch seq"]
) -> tuple[Annotated[Tensor, "batch seq dim"], ...]:
    """Return every layer's outputs, pads included: transformers' ``hidden_states``, beginning with the first input."""
    output = model(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True)
    return tuple(output.hidden_states)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run a model in evaluation mode and restore the mode of each module afterwards."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def weights_hash(model: nn.Module, settings: bytes = b"") -> str:
    """Return the SHA-256 of ``settings`` followed by the names and values of a model's weights."""
    digest = hashlib.sha256(settings)
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_texts(texts: object, name: str = "texts") -> list[str]:
    """Convert a list, a tuple, an array or a pandas Series of texts to a list of strings.

    Args:
        texts: The texts.
        name: The caller's name for the argument.

    Raises:
        TypeError: ``texts`` is a single string or not a sequence, has more than one dimension, or holds an element
            that is not a string.
    """
    if isinstance(texts, str | bytes | Mapping | Set) or not isinstance(texts, Iterable):
        advice = ": put it into a list, [text]" if isinstance(texts, str) else ""
        raise InvalidTypeError(name, f"must be a list of strings, got one {type(texts).__name__}{advice}")
    dimensions = getattr(texts, "ndim", 1)
    if dimensions != 1:
        raise InvalidTypeError(
            name, f"must have one dimension, got {type(texts).__name__} of {dimensions}: pass one column of it"
        )
    elements = list(texts)
    for place, text in enumerate(elements):
        if not isinstance(text, str):
            raise InvalidTypeError(
                name, f"must hold only strings, got {type(text).__name__} at place {place}: drop it or give it a text"
            )
    return [str(text) for text in elements]  # numpy's strings as Python's
