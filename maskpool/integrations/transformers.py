"""transformers: sentence vectors from any model and its tokenizer, and a pipeline task that gives them."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize as to_unit_length

from maskpool.batch.token_batch import TokenBatch
from maskpool.encoder import Encoder, check_texts, evaluating, layer_states, token_states
from maskpool.encoder.saved_pooling import SavedPooling, saved_pooling_of, warn_about_pooling
from maskpool.errors import InvalidTypeError, InvalidValueError, rename_arguments
from maskpool.integrations import require
from maskpool.nn import POOLINGS, FirstLastAveragePooling, LayerMix, PoolingLayer
from maskpool.plans import Plan
from maskpool.poolings.build import build_pooling

require("transformers", "st")

from tqdm.auto import tqdm  # noqa: E402  # transformers brings it
from transformers import (  # noqa: E402  # after the check
    AutoModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    pipelines,  # the same
)

Vectors: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.float32]]

_Pipeline: Any = pipelines.base.Pipeline  # Any: the types of the host's base fit none of its pipelines
PoolingArgument: TypeAlias = str | tuple[str, ...] | list[str] | PoolingLayer | LayerMix | FirstLastAveragePooling


class SentenceEmbedder:
    """Sentence vectors from any transformers model: encoders, decoders, the encoder half of an encoder-decoder.

    Texts are padded on the right and masked by their lengths, so no end-of-text token that is part of a text is ever
    taken for a pad. The model is run in evaluation mode and left as it was.

    By default the embedder pools as the model is saved: it reads the pooling of sentence-transformers or maskpool, with
    its options and weights, from the folder or hub snapshot that the model was loaded from (``model.name_or_path``).
    A model that is saved without a pooling is pooled by the mean. A ``Normalize`` module is applied by `embed`. Other
    modules behind the pooling, such as ``Dense``, and prompts are not applied; a warning names them.

    Args:
        model: Any transformers model that reads token ids, whose head is not used; or the name or folder of one, which
            is opened without running code from it.
        tokenizer: Its tokenizer; None takes the one that is saved with a name or folder. A tokenizer without a pad
            token works, with a warning.
        pooling: None for the pooling that the model is saved with; or a mode string as `build_pooling` takes it, a
            tuple of them, or a layer; also `LayerMix` and `FirstLastAveragePooling`, which read all layers.
        layer: The layer to pool: -1 the last; 0 the rows of the embedding matrix, which know neither position nor
            neighbours (the model is not run); any other of transformers' ``hidden_states`` by its number.
        max_length: Tokens of a text beyond this number are cut off; None asks the tokenizer and the model.

    Raises:
        TypeError: An argument is something else.
        NotFoundError: Neither a folder nor a model on the hub has this name.
        ValueError: ``max_length`` is not a positive integer, an unknown mode, or ``layer`` together with a pooling of
            all layers.
        FolderError: The folder of the model is malformed, or saves a pooling that cannot be applied to token states.

    Warns:
        UserWarning: ``pooling`` differs from the pooling that the model is saved with, the saved model does more than
            pooling and normalizing, or the tokenizer has no pad token.

    Example::

        model, tokenizer = AutoModel.from_pretrained(name), AutoTokenizer.from_pretrained(name)
        vectors = SentenceEmbedder(model, tokenizer).embed(["a text", "another"])
        vectors = SentenceEmbedder(name).encode(["a text", "another"])  # the same
    """

    def __init__(
        self,
        model: PreTrainedModel | str | os.PathLike[str],
        tokenizer: PreTrainedTokenizerBase | None = None,
        pooling: PoolingArgument | None = None,
        layer: int = -1,
        *,
        max_length: int | None = None,
    ) -> None:
        if isinstance(tokenizer, str) and tokenizer in POOLINGS:
            raise InvalidTypeError(
                "tokenizer", f"must be a tokenizer, got {tokenizer!r}: pass a mode as pooling={tokenizer!r}"
            )
        if isinstance(model, str | os.PathLike):
            with rename_arguments({"name": "model"}):
                opened = Encoder.load(os.fspath(model))
            model, tokenizer = opened.model, opened.tokenizer if tokenizer is None else tokenizer
        elif tokenizer is None and isinstance(model, PreTrainedModel):
            raise InvalidTypeError(
                "tokenizer", "must be the tokenizer of the model, got None: pass it, or the model's name or folder"
            )
        for name, value, kind in (("model", model, PreTrainedModel), ("tokenizer", tokenizer, PreTrainedTokenizerBase)):
            if not isinstance(value, kind):
                raise InvalidTypeError(
                    name,
                    f"must be a transformers {kind.__name__}, got {type(value).__name__}: load it with "
                    f"Auto{name.capitalize()}.from_pretrained, or pass the model's name or folder",
                )
        if max_length is not None and (
            isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 1
        ):
            raise InvalidValueError("max_length", f"must be a positive integer, got {max_length!r}")
        _warn_about_missing_pad(tokenizer)
        self.encoder = Encoder.of(model, tokenizer, max_length)
        self.saved = saved_pooling_of(model)
        self._chosen = _choose(pooling, self.saved, self.encoder, layer)
        self.pooling = self._chosen.pooling
        self.layer = layer

    def embed(
        self,
        texts: Iterable[str],
        batch_size: int = 32,
        *,
        normalize: bool | None = None,
        show_progress_bar: bool = False,
    ) -> Vectors:
        """Embed texts, in batches sorted by number of tokens.

        Args:
            texts: A list, tuple, array or Series of strings.
            batch_size: Texts in a batch.
            normalize: Give vectors of length 1. None does so if the model is saved with a ``Normalize`` module.
            show_progress_bar: Show one.

        Returns:
            float32, (texts, out_dim), in the order of the texts.

        Raises:
            TypeError: ``texts`` is one bare string, or holds something else than strings.
            ValueError: ``batch_size`` is not a positive integer, or the model has no such layer.
        """
        plan = Plan("sorted_by_tokens", batch_size)
        unit_length = _normalizes(self.saved) if normalize is None else normalize
        ids, _ = self.encoder.tokenize(checked) if (checked := check_texts(texts)) else ([], 0)
        batches = plan.batches(np.array([len(tokens) for tokens in ids], np.int64), np.random.default_rng(0))
        vectors = np.zeros((len(ids), self.dimension), np.float32)
        with evaluating(self.encoder.model), evaluating(self.pooling), torch.inference_mode():
            for places, width in tqdm(batches, desc="Batches", disable=not show_progress_bar):
                vectors[places] = self._embed_batch([ids[place] for place in places], width, unit_length)
        return vectors

    def embed_tokens(self, ids: Sequence[Sequence[int]], *, normalize: bool | None = None) -> Vectors:
        """Embed the token ids of texts, as ``encoder.tokenize`` gives them, in one batch.

        Args:
            ids: Token ids of each text, special tokens included.
            normalize: As in `embed`.

        Returns:
            float32, (texts, out_dim), in the order of the texts.
        """
        unit_length = _normalizes(self.saved) if normalize is None else normalize
        width = max((len(tokens) for tokens in ids), default=0)
        with evaluating(self.encoder.model), evaluating(self.pooling), torch.inference_mode():
            return self._embed_batch(ids, width, unit_length)

    def _embed_batch(self, ids: Sequence[Sequence[int]], width: int, unit_length: bool) -> Vectors:
        # A model wants at least one position, also where no text of the batch has a token.
        input_ids, mask = self.encoder.pad(ids, max(width, 1))
        pooled = _pool(self.encoder.model, self._chosen, self.layer, input_ids, mask).float()
        vectors: Vectors = (to_unit_length(pooled, dim=1) if unit_length else pooled).cpu().numpy()
        return vectors

    def encode(
        self,
        texts: Iterable[str],
        batch_size: int = 32,
        *,
        normalize: bool | None = None,
        show_progress_bar: bool = False,
    ) -> Vectors:
        """Embed texts: `embed` under the name that sentence-transformers uses."""
        return self.embed(texts, batch_size, normalize=normalize, show_progress_bar=show_progress_bar)

    @property
    def dimension(self) -> int:
        """Width of a vector."""
        return self.pooling.output_dimension(_width(self.encoder.model, self.layer))


class SentenceEmbeddingPipeline(_Pipeline):  # type: ignore[misc]  # the same
    """The pipeline of the task ``"sentence-embedding"``: one vector a text, as a float32 array (out_dim,).

    Parameters, when it is made or called: ``pooling`` and ``layer`` as of `SentenceEmbedder`, ``normalize`` as of its
    `embed`. By default all three are as the model is saved. Texts that are too long for the model are cut off.
    """

    _load_tokenizer = True
    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        given: PreTrainedTokenizerBase = self.tokenizer
        _warn_about_missing_pad(given)
        self._encoder = Encoder.of(self.model, given)
        self._saved = saved_pooling_of(self.model)
        self._by_parameters: dict[tuple[Any, int], _Chosen] = {}  # Any: modes and layers
        # The host pads batches with its tokenizer, on its side: a copy leaves the user's unchanged.
        tokenizer = copy.deepcopy(given)
        tokenizer.padding_side = "right"
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(self._encoder.pad_token_id)
        self.tokenizer: Any = tokenizer

    def _sanitize_parameters(
        self,
        pooling: PoolingArgument | None = None,
        layer: int | None = None,
        normalize: bool | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        given = {"pooling": pooling, "layer": layer, "normalize": normalize}
        return {}, {name: value for name, value in given.items() if value is not None}, {}

    def preprocess(self, input_: str) -> dict[str, Tensor]:
        """Tokenise one text."""
        if not isinstance(input_, str):
            raise InvalidTypeError("inputs", f"must be texts, strings, got {type(input_).__name__}")
        ids, _ = self._encoder.tokenize([input_])
        input_ids = torch.tensor(ids, dtype=torch.int64)
        if not ids[0]:  # a model wants at least one position
            return {"input_ids": torch.full((1, 1), self._encoder.pad_token_id), "attention_mask": torch.zeros(1, 1)}
        return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}

    def _forward(
        self,
        input_tensors: dict[str, Tensor],
        pooling: PoolingArgument | None = None,
        layer: int = -1,
        normalize: bool | None = None,
    ) -> dict[str, Tensor]:
        model = self._encoder.model
        mask = input_tensors["attention_mask"].long()
        key = (tuple(pooling) if isinstance(pooling, list) else pooling, layer)
        if key not in self._by_parameters:
            self._by_parameters[key] = _choose(pooling, self._saved, self._encoder, layer)
        chosen = self._by_parameters[key]
        # The host leaves dropout on in a model that was not loaded by it.
        with evaluating(model), evaluating(chosen.pooling):
            pooled = _pool(model, chosen, layer, input_tensors["input_ids"], mask).float()
        unit_length = _normalizes(self._saved) if normalize is None else normalize
        return {"vectors": to_unit_length(pooled, dim=1) if unit_length else pooled}

    def postprocess(self, model_outputs: dict[str, Tensor]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The one vector, on the CPU."""
        return model_outputs["vectors"][0].cpu().numpy()


def register_pipeline() -> None:
    """Add the task ``"sentence-embedding"`` to ``transformers.pipeline``; a second call changes nothing.

    Example::

        register_pipeline()
        embed = transformers.pipeline("sentence-embedding", model=name)
        vectors = embed(["a text", "another"], batch_size=32)  # one float32 array (out_dim,) a text
    """
    if "sentence-embedding" not in pipelines.PIPELINE_REGISTRY.get_supported_tasks():
        pipelines.PIPELINE_REGISTRY.register_pipeline(
            "sentence-embedding", SentenceEmbeddingPipeline, pt_model=AutoModel, type="text"
        )


@dataclass(frozen=True)
class _Chosen:
    """A pooling, and the ids of special tokens it leaves out."""

    pooling: PoolingLayer | LayerMix | FirstLastAveragePooling
    special_ids: Tensor | None = None


def _choose(pooling: PoolingArgument | None, saved: SavedPooling | None, encoder: Encoder, layer: int) -> _Chosen:
    """Build the requested pooling, or the saved one, and warn where the vectors are not the saved model's."""
    if pooling is not None or saved is None:
        chosen = _Chosen(_build("mean" if pooling is None else pooling, encoder.model, layer))
        if pooling is not None and saved is not None and not saved.unusable and not _is_saved(pooling, saved):
            warn_about_pooling(saved.folder, saved.name, "pooling", _shown(pooling), stacklevel=3)
        return chosen
    if saved.left_out:
        warnings.warn(
            f"{saved.folder} is saved with {', '.join(saved.left_out)}, which pooling the token states leaves out: for "
            "the vectors of the saved model, open it with maskpool.integrations.sentence_transformers.load",
            UserWarning,
            stacklevel=3,
        )
    _check_layer_argument(layer)
    built = saved.build(_width(encoder.model, layer)).to(encoder.model.device)
    if saved.include_special_tokens:
        return _Chosen(built)
    # An empty text keeps the tokens that the tokenizer adds to every text.
    added = sorted(set(encoder.tokenizer("")["input_ids"]))
    return _Chosen(built, torch.tensor(added, dtype=torch.int64, device=encoder.model.device))


def _is_saved(pooling: PoolingArgument, saved: SavedPooling) -> bool:
    if isinstance(pooling, str | tuple | list):
        return saved.is_mode(pooling)
    modes = [mode for mode, kind in POOLINGS.items() if type(pooling) is kind]
    return bool(modes) and not any(True for _ in pooling.parameters()) and saved.is_mode(modes[0])


def _shown(pooling: PoolingArgument) -> str:
    return repr(pooling) if isinstance(pooling, str | tuple | list) else type(pooling).__name__


def _normalizes(saved: SavedPooling | None) -> bool:
    return saved is not None and saved.normalize


def _build(
    pooling: PoolingArgument, model: PreTrainedModel, layer: int
) -> PoolingLayer | LayerMix | FirstLastAveragePooling:
    _check_layer_argument(layer)
    if isinstance(pooling, LayerMix | FirstLastAveragePooling):
        if layer != -1:
            raise InvalidValueError(
                "layer", f"must be left out together with {type(pooling).__name__}, which reads all, got {layer}"
            )
        return pooling
    if isinstance(pooling, str | tuple | list):
        with rename_arguments({"pooling_mode": "pooling"}):
            return build_pooling(pooling, _width(model, layer)).to(model.device)
    if not isinstance(pooling, PoolingLayer):
        raise InvalidTypeError("pooling", f"must be a maskpool layer or a mode string, got {type(pooling).__name__}")
    return pooling


def _check_layer_argument(layer: object) -> None:
    if isinstance(layer, bool) or not isinstance(layer, int):
        raise InvalidTypeError("layer", f"must be an integer, got {type(layer).__name__}")


def _pool(
    model: PreTrainedModel,
    chosen: _Chosen,
    layer: int,
    input_ids: Annotated[Tensor, "batch seq"],
    mask: Annotated[Tensor, "batch seq"],
) -> Annotated[Tensor, "batch out_dim"]:
    pooled: Tensor
    if not isinstance(chosen.pooling, PoolingLayer):
        pooled = chosen.pooling(layer_states(model, input_ids, mask), mask)
        return pooled
    batch = TokenBatch.from_padded(token_states(model, input_ids, mask, layer), mask)
    if chosen.special_ids is not None:
        batch = batch.select(~torch.isin(input_ids, chosen.special_ids))
    pooled = chosen.pooling(batch)
    return pooled


def _width(model: PreTrainedModel, layer: int) -> int:
    if layer == 0:
        table: Any = model.get_input_embeddings()  # Any: an embedding, or a model's own module like one
        return int(table.weight.shape[1])
    return int(model.config.get_text_config().hidden_size)


def _warn_about_missing_pad(tokenizer: PreTrainedTokenizerBase) -> None:
    if tokenizer.pad_token_id is None:
        warnings.warn(
            f"the tokenizer {tokenizer.name_or_path or type(tokenizer).__name__} has no pad token: pads are filled "
            "with another token and masked by each text's length, so real tokens of that kind are kept",
            UserWarning,
            stacklevel=3,
        )
