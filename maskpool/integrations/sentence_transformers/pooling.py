"""The pooling module."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from maskpool.errors import FolderError, InvalidValueError, ReadOnlyError
from maskpool.integrations.sentence_transformers.building import check_fit
from maskpool.integrations.sentence_transformers.card import add_requirement, name_in_card
from maskpool.integrations.sentence_transformers.features import given_cls, pool_weighted, read_tokens
from maskpool.integrations.st_host import SentenceTransformer, deprecated_kwargs
from maskpool.integrations.st_host import modules as host
from maskpool.nn import POOLINGS, ConcatPooling
from maskpool.poolings.build import build_pooling
from maskpool.trust import Folder, as_folder_error, check_head, find_folder
from maskpool.trust.files import is_inner_path
from maskpool.types import OnEmpty


class Pooling(host.Pooling):
    """A pooling module for sentence-transformers that reads real tokens only, with every pooling of maskpool.

    Use it in the place of the host's ``Pooling``. It reads ``token_embeddings`` padded, (batch, seq, dim) with
    ``attention_mask`` (without one, every token is real), or packed, (1, tokens, dim) with ``cu_seq_lens_q``. It also
    reads ``prompt_length``, ``special_tokens_mask`` or ``input_ids``, ``cls_token_embeddings`` and
    ``token_weights_sum``. It returns a new dictionary with ``sentence_embedding``, (batch, out_dim), added.

    The weights of learned poolings, such as ``"attention"``, train with the model, and are saved and loaded with it.

    The settings are fixed once the module is made; `replace_pooling` puts another module into a model. Only
    ``include_prompt`` may be set later, as ``SentenceTransformer.set_pooling_include_prompt`` does.

    Args:
        embedding_dimension: Width of a token embedding.
        pooling_mode: One of the mode strings of `build_pooling`, or a tuple of them to concatenate.
        include_prompt: False excludes the first ``prompt_length`` real tokens of each text.
        on_empty: What a text without tokens to pool gets: ``"zero"``, ``"nan"`` or ``"raise"``.
        include_special_tokens: False excludes the tokens that the tokenizer adds to a text, such as [CLS] and [SEP]:
            those of ``special_tokens_mask`` if the features hold one, else by their ids.
        **options: Options of the modes, such as ``k`` of ``"topk_mean"`` or ``num_heads`` of ``"attention"``.

    Raises:
        TypeError: An option that no mode takes.
        ValueError: An unknown mode, or an option with a value that is not accepted.

    Example:
        >>> import torch
        >>> pooling = Pooling(2, "max")
        >>> features = {
        ...     "token_embeddings": torch.tensor([[[1.0, 2.0], [3.0, 0.0], [9.0, 9.0]]]),
        ...     "attention_mask": torch.tensor([[1, 1, 0]]),
        ... }
        >>> pooling(features)["sentence_embedding"]
        tensor([[3., 2.]])
        >>> Pooling(2, "attention")(features)["sentence_embedding"].shape  # learned; it starts as the mean
        torch.Size([1, 2])
    """

    __module__ = "maskpool.integrations.sentence_transformers"  # saved models name the class by this path

    # What Pooling(embedding_dimension, mode) builds without further options.
    POOLING_MODES = tuple(mode for mode, layer in POOLINGS.items() if not layer.required_options())  # type: ignore[assignment]  # the host's type says its six
    config_keys: list[str] = [*host.Pooling.config_keys, "on_empty", "include_special_tokens"]  # noqa: RUF012  # the host's own type

    @deprecated_kwargs(**host.Pooling.config_key_renames)
    def __init__(
        self,
        embedding_dimension: int,
        pooling_mode: str | tuple[str, ...] | list[str] = "mean",
        include_prompt: bool = True,
        on_empty: OnEmpty = "zero",
        include_special_tokens: bool = True,
        # Any: the options are those of whichever layers the modes name.
        **options: Any,
    ) -> None:
        if isinstance(embedding_dimension, bool) or not isinstance(embedding_dimension, int) or embedding_dimension < 1:
            raise InvalidValueError("embedding_dimension", f"must be a positive integer, got {embedding_dimension!r}")
        legacy = {name: options.pop(name) for name in list(options) if name.startswith("pooling_mode_")}
        if legacy:
            pooling_mode = host.Pooling(embedding_dimension, **legacy).pooling_mode  # the host knows them, and warns
        layer = build_pooling(pooling_mode, embedding_dimension, on_empty=on_empty, **options)
        self.POOLING_MODES = tuple(POOLINGS)  # the host compares with it, and options were given for all others
        super().__init__(embedding_dimension, pooling_mode, include_prompt)
        self.on_empty = on_empty
        self.include_special_tokens = include_special_tokens
        self.options = options
        self.pooling = layer
        self.pooling_output_dimension = layer.output_dimension(embedding_dimension)
        self.register_buffer("_special_ids", None, persistent=False)

    def __setattr__(self, name: str, value: Any) -> None:  # Any: as torch declares it
        """Refuse to set what would change the saved settings only."""
        if name in ("pooling_mode", "on_empty", "include_special_tokens", "embedding_dimension") and name in vars(self):
            raise ReadOnlyError(
                name,
                f"is fixed when {type(self).__name__} is made: make another, or "
                "replace_pooling(model, pooling_mode, ...) in a model",
            )
        super().__setattr__(name, value)

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings as they are saved: the arguments of the constructor."""
        return {**super().get_config_dict(), **self.options}

    def get_embedding_dimension(self) -> int:
        """Return the width of a sentence embedding."""
        return self.pooling_output_dimension

    def on_model_ready(self, model: Any) -> None:  # Any: the host's base of all its models
        """Ask the tokenizer which tokens it adds to a text; the host calls this when a model is built."""
        if isinstance(model, SentenceTransformer):  # cards of other models have no usage of the pooled vectors
            name_in_card(model)
        if self.include_special_tokens:
            return
        tokenizer = model.tokenizer
        # An empty text has the added tokens only. Whitespace tokenizers, which cannot be called, add none.
        added = tokenizer("")["input_ids"] if callable(tokenizer) else []
        self._special_ids = torch.tensor(sorted(set(added)), dtype=torch.int64, device=model.device)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Pool a batch of features.

        Returns:
            A new dictionary: the features, and ``sentence_embedding``, (batch, out_dim).

        Raises:
            TypeError, ValueError: A feature is missing, does not fit the others, or cannot be used.
        """
        batch, excluded = read_tokens(
            features, self.embedding_dimension, self.include_prompt, self.include_special_tokens, self._special_ids
        )
        layers = self.pooling.layers() if isinstance(self.pooling, ConcatPooling) else [self.pooling]
        vectors = []
        for layer in layers:
            if layer.takes_first_token and not excluded and features.get("cls_token_embeddings") is not None:
                vectors.append(given_cls(batch, features["cls_token_embeddings"], self.on_empty))
            elif features.get("token_weights_sum") is not None and layer.takes_token_weights:
                vectors.append(pool_weighted(batch, layer, features["token_weights_sum"], excluded, self.on_empty))
            else:
                vectors.append(layer(batch))
        return {**features, "sentence_embedding": torch.cat(vectors, dim=-1)}

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write the settings, the weights if the pooling learns, and that the model requires maskpool."""
        self.save_config(output_path)
        add_requirement(Path(output_path).parent / "config_sentence_transformers.json")
        if any(True for _ in self.parameters()):
            self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        init_defaults: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Read what `save` wrote; the arguments are those of every module of sentence-transformers.

        Raises:
            NotFoundError: The folder does not exist.
            FolderError: The settings or weights are malformed, or belong to another module.
        """
        source = model_name_or_path
        if not is_inner_path(subfolder):
            raise FolderError(f"must be a path inside {source}, got {subfolder!r}", argument="subfolder")
        if not os.path.isdir(source):
            vetted = find_folder(source, token, cache_folder, revision, local_files_only, only=subfolder)
            source = str(vetted)
        folder = Folder(source)
        check_head(folder, subfolder)
        with as_folder_error(f"{folder.at(subfolder, 'config.json')} must hold the settings of a {cls.__name__}"):
            settings = cls.load_config(source, subfolder, local_files_only=True)
            settings = {**(init_defaults or {}), **settings}
            with torch.device("meta"):
                learns = any(True for _ in _layers_of(settings).parameters())
            if learns:
                check_fit(folder, subfolder, lambda: _layers_of(settings))
            module = cls(**settings)
        if learns:
            with as_folder_error(f"{folder.at(subfolder)} must hold the weights of a {cls.__name__}"):
                cls.load_torch_weights(source, subfolder, local_files_only=True, model=module)
        return module


def _layers_of(settings: Mapping[str, Any]) -> nn.Module:
    """Build the layers that the settings describe, under the names that they have in a module."""
    module = nn.Module()
    if any(name.startswith("pooling_mode_") for name in settings):
        return module  # settings of old versions of the host, which had no learned layers
    ours = ("embedding_dimension", "pooling_mode", "include_prompt", "include_special_tokens")
    options = {name: value for name, value in settings.items() if name not in ours}
    mode = settings.get("pooling_mode", "mean")
    module.pooling = build_pooling(
        tuple(mode) if isinstance(mode, list) else mode, settings["embedding_dimension"], **options
    )
    return module
