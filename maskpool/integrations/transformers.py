"""transformers: sentence vectors from any model and its tokenizer, and a pipeline task that gives them."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize as to_unit_length

from maskpool.encoder import Encoder, check_texts, evaluating, layer_states, token_states
from maskpool.integrations import require
from maskpool.modules import FirstLastAveragePooling, LayerMix, Pooling, build_pooling
from maskpool.modules.build import output_dimension
from maskpool.plans import Plan

require("transformers", "5.23", "st")

from tqdm.auto import tqdm  # noqa: E402  # transformers brings it
from transformers import (  # noqa: E402  # after the check
    AutoModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    pipelines,  # the same
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jaxtyping import Float, Int

    Vectors: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.float32]]

_Pipeline: Any = pipelines.base.Pipeline  # Any: the types of the host's base fit none of its pipelines
PoolingArgument: TypeAlias = "str | tuple[str, ...] | list[str] | Pooling | LayerMix | FirstLastAveragePooling"


class SentenceEmbedder:
    """Sentence vectors from any transformers model: encoders, decoders, the encoder half of an encoder-decoder.

    Texts are padded on the right and masked by their lengths, so no end-of-text token that is part of a text is ever
    taken for a pad. The model is run in evaluation mode and left as it was.

    Args:
        model: Any transformers model that reads token ids; a head is left out.
        tokenizer: Its tokenizer. One without a pad token works, with a notice.
        pooling: A mode string as `build_pooling` takes it, a tuple of them, or a layer; also `LayerMix` and
            `FirstLastAveragePooling`, which read all layers.
        layer: The layer to pool: -1 the last; 0 the rows of the embedding matrix, which know neither position nor
            neighbours (the model is not run); any other of transformers' ``hidden_states`` by its number.
        max_length: Tokens of a text beyond this number are cut off; None asks the tokenizer and the model.

    Raises:
        TypeError: An argument is something else.
        ValueError: ``max_length`` is no positive integer, an unknown mode, or ``layer`` beside a pooling of all layers.

    Example::

        model, tokenizer = AutoModel.from_pretrained(name), AutoTokenizer.from_pretrained(name)
        vectors = SentenceEmbedder(model, tokenizer, pooling="mean").embed(["a text", "another"])
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        pooling: PoolingArgument = "mean",
        layer: int = -1,
        *,
        max_length: int | None = None,
    ) -> None:
        for name, value, kind in (("model", model, PreTrainedModel), ("tokenizer", tokenizer, PreTrainedTokenizerBase)):
            if not isinstance(value, kind):
                raise TypeError(
                    f"{name} must be a transformers {kind.__name__}, got {type(value).__name__}: load it with "
                    f"Auto{name.capitalize()}.from_pretrained"
                )
        if max_length is not None and (
            isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 1
        ):
            raise ValueError(f"max_length must be a positive integer, got {max_length!r}")
        _tell_of_missing_pad(tokenizer)
        self.encoder = Encoder.of(model, tokenizer, max_length)
        self.pooling = _build(pooling, self.encoder.model, layer)
        self.layer = layer

    def embed(
        self, texts: Iterable[str], batch_size: int = 32, *, normalize: bool = False, show_progress_bar: bool = False
    ) -> Vectors:
        """Embed texts, in batches sorted by length.

        Args:
            texts: A list, tuple, array or Series of strings.
            batch_size: Texts in a batch.
            normalize: Give vectors of length 1.
            show_progress_bar: Show one.

        Returns:
            float32, (texts, out_dim), in the order of the texts.

        Raises:
            TypeError: ``texts`` is one bare string, or holds something else than strings.
            ValueError: ``batch_size`` is no positive integer, or the model has no such layer.
        """
        plan = Plan("sorted", batch_size)
        ids, _ = self.encoder.tokenize(found) if (found := check_texts(texts)) else ([], 0)
        batches = plan.batches(np.array([len(tokens) for tokens in ids], np.int64), np.random.default_rng(0))
        vectors = np.zeros((len(ids), self.dimension), np.float32)
        with evaluating(self.encoder.model), evaluating(self.pooling), torch.inference_mode():
            for places, width in tqdm(batches[::-1], desc="Batches", disable=not show_progress_bar):  # longest first
                # A model wants at least one position, also where no text of the batch has a token.
                input_ids, mask = self.encoder.pad([ids[place] for place in places], max(width, 1))
                pooled = _pool(self.encoder.model, self.pooling, self.layer, input_ids, mask).float()
                vectors[places] = (to_unit_length(pooled, dim=1) if normalize else pooled).cpu().numpy()
        return vectors

    @property
    def dimension(self) -> int:
        """Width of a vector."""
        return output_dimension(self.pooling, _width(self.encoder.model, self.layer))


class SentenceEmbeddingPipeline(_Pipeline):  # type: ignore[misc]  # the same
    """The pipeline of the task ``"sentence-embedding"``: one vector a text, as a float32 array (out_dim,).

    Parameters, when it is made or called: ``pooling`` and ``layer`` as of `SentenceEmbedder`, ``normalize`` for
    vectors of length 1. Texts that are too long for the model are cut off.
    """

    _load_tokenizer = True
    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        given: PreTrainedTokenizerBase = self.tokenizer
        _tell_of_missing_pad(given)
        self._encoder = Encoder.of(self.model, given)
        # The host pads batches with its tokenizer, on its side: a copy, so that the user's stays as it is.
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
            raise TypeError(f"a text must be a string, got {type(input_).__name__}")
        ids, _ = self._encoder.tokenize([input_])
        input_ids = torch.tensor(ids, dtype=torch.int64)
        if not ids[0]:  # a model wants at least one position
            return {"input_ids": torch.full((1, 1), self._encoder.pad_token_id), "attention_mask": torch.zeros(1, 1)}
        return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}

    def _forward(
        self,
        input_tensors: dict[str, Tensor],
        pooling: PoolingArgument = "mean",
        layer: int = -1,
        normalize: bool = False,
    ) -> dict[str, Tensor]:
        model = self._encoder.model
        mask = input_tensors["attention_mask"].long()
        with evaluating(model):  # the host leaves dropout on in a model that was not loaded by it
            pooled = _pool(model, _build(pooling, model, layer), layer, input_tensors["input_ids"], mask).float()
        return {"vectors": to_unit_length(pooled, dim=1) if normalize else pooled}

    def postprocess(self, model_outputs: dict[str, Tensor]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The one vector, on the CPU."""
        return model_outputs["vectors"][0].cpu().numpy()


def register_pipeline() -> None:
    """Add the task ``"sentence-embedding"`` to ``transformers.pipeline``; a second call changes nothing.

    Example::

        register_pipeline()
        embed = transformers.pipeline("sentence-embedding", model=name, pooling="mean")
        vectors = embed(["a text", "another"], batch_size=32)  # one float32 array (out_dim,) a text
    """
    if "sentence-embedding" not in pipelines.PIPELINE_REGISTRY.get_supported_tasks():
        pipelines.PIPELINE_REGISTRY.register_pipeline(
            "sentence-embedding", SentenceEmbeddingPipeline, pt_model=AutoModel, type="text"
        )


def _build(
    pooling: PoolingArgument, model: PreTrainedModel, layer: int
) -> Pooling | LayerMix | FirstLastAveragePooling:
    if isinstance(layer, bool) or not isinstance(layer, int):
        raise TypeError(f"layer must be an integer, got {type(layer).__name__}")
    if isinstance(pooling, LayerMix | FirstLastAveragePooling):
        if layer != -1:
            raise ValueError(f"layer must be left out beside {type(pooling).__name__}, which reads all, got {layer}")
        return pooling
    if isinstance(pooling, str | tuple | list):
        return build_pooling(pooling, _width(model, layer)).to(model.device)
    if not isinstance(pooling, Pooling):
        raise TypeError(f"pooling must be a maskpool layer or a mode string, got {type(pooling).__name__}")
    return pooling


def _pool(
    model: PreTrainedModel,
    pooling: Pooling | LayerMix | FirstLastAveragePooling,
    layer: int,
    input_ids: Int[Tensor, "batch seq"],
    mask: Int[Tensor, "batch seq"],
) -> Float[Tensor, "batch out_dim"]:
    one_layer = isinstance(pooling, Pooling)
    states = token_states(model, input_ids, mask, layer) if one_layer else layer_states(model, input_ids, mask)
    pooled: Tensor = pooling(states, mask)
    return pooled


def _width(model: PreTrainedModel, layer: int) -> int:
    if layer == 0:
        table: Any = model.get_input_embeddings()  # Any: an embedding, or a model's own module like one
        return int(table.weight.shape[1])
    return int(model.config.get_text_config().hidden_size)


def _tell_of_missing_pad(tokenizer: PreTrainedTokenizerBase) -> None:
    if tokenizer.pad_token_id is None:
        warnings.warn(
            f"the tokenizer {tokenizer.name_or_path or type(tokenizer).__name__} has no pad token: pads are filled "
            "with another token and masked by each text's length, so real tokens of that kind are kept",
            UserWarning,
            stacklevel=3,
        )
