"""sentence-transformers: our poolings as its modules, saved and loaded as its own are.

The stored path of a class, ``maskpool.integrations.sentence_transformers.<name>``, stands in every model that
was saved with it, and so stays.
"""

from __future__ import annotations

import copy
import os
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from maskpool import segments
from maskpool.encoder import bundled_folder_of
from maskpool.encoder.saved_pooling import warn_about_pooling
from maskpool.errors import FolderError, NotFoundError, RequirementError
from maskpool.functional.common import OnEmpty, apply_on_empty
from maskpool.integrations.st_host import SentenceTransformer, check_version_requirements, deprecated_kwargs
from maskpool.integrations.st_host import modules as host
from maskpool.integrations.st_opening import build_module, build_plain, check_fit
from maskpool.masks import exclude_prompt
from maskpool.modules import ConcatPooling, WeightedPooling, build_pooling
from maskpool.modules.build import POOLINGS, output_dimension
from maskpool.tokens import TokenBatch
from maskpool.trust import (
    Folder,
    as_folder_error,
    check_head,
    check_modules,
    check_transformer,
    find_device,
    find_folder,
    reason_of,
)
from maskpool.trust.fields import STRING, integer, one_of, optional, refused
from maskpool.trust.files import is_inner_path

if TYPE_CHECKING:
    from jaxtyping import Float

# What a weighted sum over tokens that upstream has already weighted still needs: its denominator's power.
_POWER_OF_WEIGHTS = {"mean": -1.0, "mean_sqrt_len_tokens": -0.5, "sum": 0.0}


class Pooling(host.Pooling):
    """The host's pooling module, reading real tokens only, with every pooling of maskpool.

    Put it where the host's own stands. It reads ``token_embeddings`` padded, (batch, seq, dim) with
    ``attention_mask`` (absent means all real), or flat, (1, tokens, dim) with ``cu_seq_lens_q``; and of the
    other features ``prompt_length``, ``special_tokens_mask`` or ``input_ids``, ``cls_token_embeddings`` and
    ``token_weights_sum``. It returns a new dictionary with ``sentence_embedding``, (batch, out_dim), added.

    Its settings are fixed when it is made; `replace_pooling` makes another in a model. Only ``include_prompt``
    may be set later, as ``SentenceTransformer.set_pooling_include_prompt`` does.

    Source: sentence-transformers, ``sentence_transformers.sentence_transformer.modules.Pooling``.

    Args:
        embedding_dimension: Width of a token embedding.
        pooling_mode: One of the mode strings of `build_pooling`, or a tuple of them to concatenate.
        include_prompt: False leaves out the first ``prompt_length`` real tokens of each text.
        on_empty: What a text without a token to pool gets: ``"zero"``, ``"nan"`` or ``"raise"``.
        include_special_tokens: False leaves out the tokens that the tokenizer adds to a text, such as [CLS]
            and [SEP]: those of ``special_tokens_mask`` where the features hold one, else by their ids.
        **options: Those of the modes, such as ``k`` of ``"topk_mean"`` or ``num_heads`` of ``"attention"``.

    Raises:
        TypeError: An option that no mode takes.
        ValueError: An unknown mode, or an option without its proper value.

    Example:
        >>> pooling = Pooling(2, "max")
        >>> features = {
        ...     "token_embeddings": torch.tensor([[[1.0, 2.0], [3.0, 0.0], [9.0, 9.0]]]),
        ...     "attention_mask": torch.tensor([[1, 1, 0]]),
        ... }
        >>> pooling(features)["sentence_embedding"]
        tensor([[3., 2.]])
    """

    POOLING_MODES = tuple(POOLINGS)  # type: ignore[assignment]  # the host's type says its six
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
            raise ValueError(f"embedding_dimension must be a positive integer, got {embedding_dimension!r}")
        legacy = {name: options.pop(name) for name in list(options) if name.startswith("pooling_mode_")}
        if legacy:
            pooling_mode = host.Pooling(embedding_dimension, **legacy).pooling_mode  # it knows them, and warns
        layer = build_pooling(pooling_mode, embedding_dimension, on_empty=on_empty, **options)
        super().__init__(embedding_dimension, pooling_mode, include_prompt)
        self.on_empty = on_empty
        self.include_special_tokens = include_special_tokens
        self.options = options
        self.pooling = layer
        self.pooling_output_dimension = output_dimension(layer, embedding_dimension)
        self.register_buffer("_special_ids", None, persistent=False)

    def __setattr__(self, name: str, value: Any) -> None:  # Any: as torch declares it
        """Refuse what would change nothing but the saved settings."""
        if name in ("pooling_mode", "on_empty", "include_special_tokens", "embedding_dimension") and name in vars(self):
            raise AttributeError(
                f"{name} is fixed when {type(self).__name__} is made: make another, or "
                f"replace_pooling(model, pooling_mode, ...) in a model"
            )
        super().__setattr__(name, value)

    def get_config_dict(self) -> dict[str, Any]:
        """The settings as they are saved: the constructor's arguments."""
        return {**super().get_config_dict(), **self.options}

    def get_embedding_dimension(self) -> int:
        """Width of a sentence embedding."""
        return self.pooling_output_dimension

    def on_model_ready(self, model: Any) -> None:  # Any: the host's base of all its models
        """Learn which tokens the model's tokenizer adds to a text; the host calls this when a model is built."""
        if self.include_special_tokens:
            return
        tokenizer = model.tokenizer
        # An empty text leaves what is added. Those of whitespace tokenizers (no call) add nothing.
        added = tokenizer("")["input_ids"] if callable(tokenizer) else []
        self._special_ids = torch.tensor(sorted(set(added)), dtype=torch.int64, device=model.device)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Pool a batch of features.

        Returns:
            A new dictionary: the features, and ``sentence_embedding``, (batch, out_dim).

        Raises:
            TypeError, ValueError: A feature is missing, does not fit the others, or cannot be honoured.
        """
        batch, excluded = self._batch(features)
        layers = list(self.pooling.poolings) if isinstance(self.pooling, ConcatPooling) else [self.pooling]
        modes = (self.pooling_mode,) if isinstance(self.pooling_mode, str) else self.pooling_mode
        vectors = []
        for mode, layer in zip(modes, layers, strict=True):
            if mode == "cls" and not excluded and features.get("cls_token_embeddings") is not None:
                vectors.append(self._given_cls(batch, features["cls_token_embeddings"]))
            elif features.get("token_weights_sum") is not None and isinstance(layer, WeightedPooling):
                vectors.append(self._over_weights(batch, mode, features["token_weights_sum"], excluded))
            else:
                vectors.append(layer(batch))
        return {**features, "sentence_embedding": torch.cat(vectors, dim=-1)}

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write the settings, and the weights of learned layers."""
        self.save_config(output_path)
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
        """Read what `save` wrote; the arguments are those of every module of the host.

        Raises:
            NotFoundError: There is no such folder.
            FolderError: The settings or weights are malformed, or belong to another module.
        """
        source = model_name_or_path
        if not is_inner_path(subfolder):
            raise FolderError(f"subfolder must be a path inside of {source}, got {subfolder!r}")
        if not os.path.isdir(source):
            found = find_folder(source, token, cache_folder, revision, local_files_only, only=subfolder)
            source = str(found)
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

    def _batch(self, features: Mapping[str, Any]) -> tuple[TokenBatch, bool]:
        """The tokens to pool, and whether real tokens may have been left out of them."""
        x = features.get("token_embeddings")
        if not isinstance(x, Tensor):
            found = ", ".join(map(str, features))
            raise ValueError(
                f"features must hold token_embeddings, got {found or 'nothing'}: a pooling stands behind a module "
                "that gives them, such as the host's Transformer"
            )
        if x.shape[-1] != self.embedding_dimension:
            raise ValueError(
                f"token_embeddings must have the embedding_dimension {self.embedding_dimension} of this module, got "
                f"{x.shape[-1]}: build it with the dimension of the module before it"
            )
        cu_seqlens = features.get("cu_seq_lens_q")
        if cu_seqlens is not None:
            batch = TokenBatch.from_packed(x, cu_seqlens)
            mask = torch.ones(x.shape[:-1].numel(), dtype=torch.bool, device=x.device)
        else:
            given = features.get("attention_mask")
            mask = torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device) if given is None else given
            batch = TokenBatch.from_padded(x, mask)
        keep = None
        prompt = features.get("prompt_length")
        if not self.include_prompt and prompt is not None and not (isinstance(prompt, int) and prompt == 0):
            keep = exclude_prompt(mask, prompt, cu_seqlens=cu_seqlens).bool()
        if not self.include_special_tokens:
            special = self._special(features)
            if special.numel() != mask.numel():
                raise ValueError(
                    f"special_tokens_mask or input_ids must have one number a token, got {tuple(special.shape)} for a "
                    f"batch of {tuple(x.shape[:-1])}"
                )
            words = ~special.reshape(mask.shape)
            keep = words if keep is None else keep & words
        if keep is None:
            return batch, False
        return batch.select(keep), True

    def _special(self, features: Mapping[str, Any]) -> Tensor:
        """True at the tokens that the tokenizer added."""
        given = features.get("special_tokens_mask")
        if given is not None:
            return given.bool()  # type: ignore[no-any-return]  # features hold anything
        ids = features.get("input_ids")
        if ids is None or self._special_ids is None:
            missing = "input_ids" if ids is None else "a model's tokenizer"
            raise ValueError(
                "include_special_tokens=False must know which tokens the tokenizer added, and special_tokens_mask and "
                f"{missing} are missing: tokenise with return_special_tokens_mask=True, or use the module inside of "
                "a SentenceTransformer (where it was put in by hand, call module.on_model_ready(model))"
            )
        return torch.isin(ids, self._special_ids)

    def _given_cls(self, batch: TokenBatch, cls: Tensor) -> Tensor:
        expected = (batch.lengths.numel(), batch.dim)
        if tuple(cls.shape) != expected:
            raise ValueError(
                f"cls_token_embeddings must have the shape (batch, dim) = {expected}, got {tuple(cls.shape)}"
            )
        vectors = torch.where(segments.empty_sentences(batch).unsqueeze(1), 0.0, cls)
        return apply_on_empty(vectors, batch, self.on_empty)

    def _over_weights(self, batch: TokenBatch, mode: str, sums: Float[Tensor, " batch"], excluded: bool) -> Tensor:
        """Σₜ xₜ times a power of Σₜ wₜ: the embeddings are wₜ xₜ already, and the weights are gone."""
        power = _POWER_OF_WEIGHTS.get(mode)
        if power is None or (excluded and power):
            case = f"of pooling_mode {mode!r}" if power is None else "once tokens are excluded"
            raise ValueError(
                f"token_weights_sum (embeddings that a module such as WordWeights has weighted) does not tell the "
                f"denominator {case}: take that module away, and pool with weights= in a maskpool layer"
            )
        if sums.shape != batch.lengths.shape:
            raise ValueError(
                f"token_weights_sum must have the shape {tuple(batch.lengths.shape)}, (batch,), got {tuple(sums.shape)}"
            )
        sums = sums.to(batch.accumulation_dtype)
        scale = torch.where(sums == 0, 1.0, sums).pow(power)
        weight = torch.where(segments.empty_sentences(batch), 0.0, sums)
        return apply_on_empty(segments.scaled_sum(batch, scale), batch, self.on_empty, weight)


class AttentionPoolingModule(Pooling):
    """A learned pooling as a module of the host: its weights train, and are saved and restored with the model.

    It starts equal to the mean. Everything that `Pooling` says holds here.

    Source: Yang et al. 2016, Hierarchical Attention Networks (attention).

    Args:
        embedding_dimension: Width of a token embedding.
        pooling_mode: A mode string whose layer learns, such as ``"attention"`` or ``"generalized_mean"``, or a
            tuple with such a one.
        include_prompt: False leaves out the first ``prompt_length`` real tokens of each text.
        on_empty: What a text without a token to pool gets: ``"zero"``, ``"nan"`` or ``"raise"``.
        include_special_tokens: False leaves out the tokens that the tokenizer adds to a text.
        **options: Those of the layer, such as ``num_heads`` and ``hidden_dimension`` of attention.

    Raises:
        TypeError: An option that no mode takes.
        ValueError: A mode that is unknown or learns nothing, or an option without its proper value.

    Example:
        >>> module = AttentionPoolingModule(8, num_heads=2)
        >>> features = {"token_embeddings": torch.ones(1, 3, 8), "attention_mask": torch.tensor([[1, 1, 0]])}
        >>> module(features)["sentence_embedding"].shape
        torch.Size([1, 8])
    """

    def __init__(
        self,
        embedding_dimension: int,
        pooling_mode: str | tuple[str, ...] | list[str] = "attention",
        include_prompt: bool = True,
        on_empty: OnEmpty = "zero",
        include_special_tokens: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(embedding_dimension, pooling_mode, include_prompt, on_empty, include_special_tokens, **options)
        if not any(True for _ in self.parameters()):
            raise ValueError(f"pooling_mode must be one that learns, got {pooling_mode!r}: that is for Pooling")


def _layers_of(settings: Mapping[str, Any]) -> nn.Module:
    """The layers that some settings describe, under the names they have in a module, without running them."""
    module = nn.Module()
    if any(name.startswith("pooling_mode_") for name in settings):
        return module  # the settings of the host's older versions, which had no layers that learn
    ours = ("embedding_dimension", "pooling_mode", "include_prompt", "include_special_tokens")
    options = {name: value for name, value in settings.items() if name not in ours}
    mode = settings.get("pooling_mode", "attention")
    module.pooling = build_pooling(
        tuple(mode) if isinstance(mode, list) else mode, settings["embedding_dimension"], **options
    )
    return module


def replace_pooling(
    model: SentenceTransformer, pooling_mode: str | tuple[str, ...] | list[str] | None = None, **options: Any
) -> SentenceTransformer:
    """Exchange a model's pooling for ours, in place.

    The new module has the old one's settings, on its device and in its dtype, and what it has learned, where mode and
    sizes stay. Embeddings stay equal to rounding, except where the old module read pads or gave an empty text what is
    no vector of it.

    Args:
        model: Any loaded ``SentenceTransformer`` with one pooling module, the host's or ours.
        pooling_mode: Another mode, as `build_pooling` takes it; None keeps the model's.
        **options: ``include_prompt``, ``on_empty``, ``include_special_tokens`` and the options of the mode.

    Returns:
        The model that was given.

    Raises:
        TypeError: ``model`` is no ``SentenceTransformer``, or an option that no mode takes.
        ValueError: It has no pooling module or several, or a layer behind the pooling was built for another
            dimension than the new mode gives; or an unknown mode.

    Example::

        model = replace_pooling(SentenceTransformer("all-MiniLM-L6-v2"), "max")
    """
    name, old = _find_pooling(model)
    mode = old.pooling_mode if pooling_mode is None else pooling_mode
    if isinstance(mode, tuple | list):  # as the host stores it
        mode = mode[0] if len(mode) == 1 else tuple(mode)
    same_mode = mode == old.pooling_mode
    kept: dict[str, Any] = {"include_prompt": old.include_prompt}
    if isinstance(old, Pooling):
        kept |= {"on_empty": old.on_empty, "include_special_tokens": old.include_special_tokens}
        kept |= old.options if same_mode else {}
    new = Pooling(old.embedding_dimension, mode, **{**kept, **options})
    if any(True for _ in new.parameters()):
        new = AttentionPoolingModule(old.embedding_dimension, mode, **{**kept, **options})
        if isinstance(old, Pooling) and same_mode and _shapes(old) == _shapes(new):
            new.load_state_dict(old.state_dict())
    _put(model, name, old, new)
    return model


def with_pooling(
    model: SentenceTransformer, pooling_mode: str | tuple[str, ...] | list[str] | None = None, **options: Any
) -> SentenceTransformer:
    """A model with our pooling that shares all other modules with the given one, which keeps its own pooling.

    The arguments, and what is raised, are those of `replace_pooling`.
    """
    name, _ = _find_pooling(model)
    if "." in name:  # inside of another module, which cannot be shared and changed
        return replace_pooling(copy.deepcopy(model), pooling_mode, **options)
    modules: Any = OrderedDict(model.named_children())  # Any: the host's type names lists alone
    prompts: Any = dict(model.prompts)  # Any: the host takes no None, which it gives
    other = SentenceTransformer(
        modules=modules,
        device=str(model.device),
        prompts=prompts,
        default_prompt_name=model.default_prompt_name,
        similarity_fn_name=model.similarity_fn_name,
        truncate_dim=model.truncate_dim,
    )
    other.module_kwargs = model.module_kwargs
    other.training = model.training
    return replace_pooling(other, pooling_mode, **options)


def warn_if_pooled_otherwise(
    source: object, model: SentenceTransformer, pooling_mode: str | tuple[str, ...] | list[str] | None, stacklevel: int
) -> None:
    """Say that a model opened from a folder is given another pooling than it is saved with.

    Args:
        source: The folder or name.
        model: The model as it is saved.
        pooling_mode: The other mode; None is the saved one.
        stacklevel: As of `warnings.warn`, counted from the caller of this function.

    Warns:
        UserWarning: The mode is not the saved one.
    """
    _, saved = _find_pooling(model)
    modes = [(mode,) if isinstance(mode, str) else tuple(mode) for mode in (saved.pooling_mode, pooling_mode or "")]
    if pooling_mode is not None and modes[0] != modes[1]:
        warn_about_pooling(source, " + ".join(modes[0]), "pooling_mode", repr(pooling_mode), stacklevel + 1)


def as_host_pooling(model: SentenceTransformer) -> SentenceTransformer:
    """Exchange our pooling for the host's own class, in place, so that any server reads what is saved.

    The host's module is what it is: it reads NaN in pads, and gives a text without a token what it likes.

    Args:
        model: A ``SentenceTransformer`` with one `Pooling` of ours, of modes that the host has too.

    Returns:
        The model that was given.

    Raises:
        TypeError: ``model`` is no ``SentenceTransformer``.
        ValueError: It has no pooling of ours or several poolings, or one with a setting that the host has not.
    """
    name, ours = _find_pooling(model)
    if not isinstance(ours, Pooling):
        raise ValueError(f"model must have a pooling of maskpool, got {type(ours).__name__}, the host's own already")
    modes = (ours.pooling_mode,) if isinstance(ours.pooling_mode, str) else ours.pooling_mode
    foreign = [f"pooling_mode {mode!r}" for mode in modes if mode not in host.Pooling.POOLING_MODES]
    foreign += [] if ours.include_special_tokens else ["include_special_tokens=False"]
    if foreign:
        raise ValueError(
            f"the host's own Pooling has no {', '.join(foreign)}; its modes are "
            f"{', '.join(map(repr, host.Pooling.POOLING_MODES))}"
        )
    _put(model, name, ours, host.Pooling(ours.embedding_dimension, ours.pooling_mode, ours.include_prompt))
    return model


def load(name_or_path: str | os.PathLike[str], **kwargs: Any) -> SentenceTransformer:
    """Open a saved model that may hold our modules, without running code from it.

    Every file is vetted before it is opened. The classes in ``modules.json`` must be in an exact list: ours and the
    host's own. Arguments that the files pass on to transformers must be in another list. Weights are safetensors, or
    pickles opened with ``weights_only=True``. No file outside of the folder is read, and nothing is asked on the
    terminal. (``SentenceTransformer(name_or_path, trust_remote_code=True)`` opens the model without these checks.)

    Args:
        name_or_path: A folder, a name on the Hugging Face hub, or ``"all-MiniLM-L6-v2"``, which is taken from
            the installed package if there is one.
        **kwargs: Keywords of ``SentenceTransformer``, except ``modules`` and ``trust_remote_code``.

    Returns:
        The model, with its modules, prompts, similarity function and truncation.

    Raises:
        NotFoundError: There is no such model, or it has no ``modules.json``.
        FolderError: A file is malformed, or asks for code or for something outside of the model.
        DeviceError: Torch cannot use ``device``.
        RequirementError: The model needs other versions of packages.
        TypeError: A keyword that ``SentenceTransformer`` does not know, or one of the two that are not taken.

    Example::

        model = load("folder-with-a-saved-model", device="cpu")
    """
    folder, where = _find(name_or_path, kwargs)
    given: dict[str, Any] = {name: kwargs.pop(name, None) for name in _PASSED_ON}
    given["backend"] = kwargs.get("backend", "torch")
    folder.check_tree()
    entries = check_modules(folder, _CLASSES, weights=given["backend"] == "torch")
    if entries is None:
        raise NotFoundError(
            f"name_or_path must be a saved SentenceTransformer, a folder or a name on the hub, got {where!r}: it has "
            "no modules.json that could be read; a plain transformers model is opened by SentenceTransformer(...)"
        )
    config = _read_settings(folder)
    modules: Any = OrderedDict()  # Any: the host's type allows lists only
    for entry in entries:
        modules[entry.name] = build_module(folder, entry, _CLASSES, given)
    kwargs["prompts"] = {**config.get("prompts", {}), **(kwargs.get("prompts") or {})}
    for setting in ("default_prompt_name", "similarity_fn_name", "truncate_dim"):
        if kwargs.get(setting) is None:
            kwargs[setting] = config.get(setting)
    model = _assemble(str(folder), modules, kwargs)
    model.module_kwargs = {entry.name: list(entry.keywords) for entry in entries}
    for module in model.modules():
        if isinstance(module, Pooling):
            module.on_model_ready(model)  # the host calls those at the top only
    return model


def load_plain(name_or_path: str | os.PathLike[str], **kwargs: Any) -> SentenceTransformer:
    """Open a transformers model that was not saved as a SentenceTransformer, with mean pooling, as the host does.

    The files are vetted as by `load`, which has the same arguments and errors.
    """
    folder, _ = _find(name_or_path, kwargs)
    given: dict[str, Any] = {name: kwargs.pop(name, None) for name in _PASSED_ON}
    given["backend"] = kwargs.get("backend", "torch")
    folder.check_tree()
    check_transformer(folder, weights=given["backend"] == "torch")
    transformer = build_plain(str(folder), given)
    with as_folder_error(f"{folder} must hold a model that gives token states"):
        pooling = Pooling(transformer.get_embedding_dimension(), "mean")
    return _assemble(str(folder), OrderedDict([("0", transformer), ("1", pooling)]), kwargs)


_PASSED_ON = ("model_kwargs", "processor_kwargs", "config_kwargs")


def _find(name_or_path: object, kwargs: dict[str, Any]) -> tuple[Folder, str]:
    """The folder of a model, and what the caller named; takes out of the keywords what belongs to the hub."""
    for keyword in ("modules", "trust_remote_code"):
        if keyword in kwargs:
            raise TypeError(f"load takes no {keyword}: it reads the modules from {name_or_path} and runs no code of it")
    if not isinstance(name_or_path, str | os.PathLike):
        raise TypeError(f"name_or_path must be a folder or a name on the hub, got {type(name_or_path).__name__}")
    if kwargs.get("device") is not None:
        find_device(kwargs["device"])
    source = bundled_folder_of(os.fspath(name_or_path))
    token, cache_folder, revision = (kwargs.pop(name, None) for name in ("token", "cache_folder", "revision"))
    cache_folder = cache_folder or os.getenv("SENTENCE_TRANSFORMERS_HOME")  # as the host does
    only_local, backend = kwargs.get("local_files_only", False), kwargs.get("backend", "torch")
    try:
        return Folder(find_folder(source, token, cache_folder, revision, only_local, backend)), source
    except NotFoundError as error:
        raise NotFoundError(
            f"name_or_path must be a saved SentenceTransformer, a folder or a name on the hub, got {source!r}: {error}"
        ) from error


def _assemble(source: str, modules: Any, kwargs: dict[str, Any]) -> SentenceTransformer:
    try:
        return SentenceTransformer(modules=modules, **kwargs)
    except (TypeError, ImportError):  # a keyword that the host does not know
        raise
    except Exception as error:  # modules that do not fit each other show up as errors of many kinds
        raise FolderError(f"{source} must hold modules that fit each other: {reason_of(error)}") from error


def _read_settings(folder: Folder) -> dict[str, Any]:
    """Vet and return the settings of a whole model: prompts, similarity function, truncation, requirements."""
    name = "config_sentence_transformers.json"
    config = folder.table(name) or {}
    path = folder.at(name)
    prompts = config.get("prompts", {})
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise refused(path, "prompts", "a table of strings", prompts)
    for setting, field in (
        ("default_prompt_name", optional(STRING)),
        ("similarity_fn_name", optional(one_of(("cosine", "dot", "euclidean", "manhattan")))),
        ("truncate_dim", optional(integer(1, 1 << 24))),
    ):
        if setting in config and not field.holds(config[setting]):
            raise refused(path, setting, field.words, config[setting])
    default = config.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise refused(path, "default_prompt_name", f"the name of a prompt ({', '.join(prompts) or 'none'})", default)
    requirements = config.get("requirements")
    if requirements is not None and not isinstance(requirements, dict):
        raise refused(path, "requirements", "a table of versions", requirements)
    try:
        check_version_requirements(requirements, source=str(folder))
    except ImportError as error:
        raise RequirementError(str(error)) from error
    except Exception as error:
        raise FolderError(f"{path} must have in requirements versions of packages: {reason_of(error)}") from error
    return config


# Every class that a saved model of the host may be made of, under each path that its versions have stored.
_HOST_CLASSES: tuple[type[host.Module], ...] = (
    host.BoW,
    host.CLIPModel,
    host.CNN,
    host.Dense,
    host.Dropout,
    host.LSTM,
    host.LayerNorm,
    host.Normalize,
    host.Pooling,
    host.Router,
    host.StaticEmbedding,
    host.Transformer,
    host.WeightedLayerPooling,
    host.WordEmbeddings,
    host.WordWeights,
)
_CLASSES: dict[str, type[host.Module]] = {
    f"{path}.{cls.__name__}": cls
    for cls in _HOST_CLASSES
    for path in (
        cls.__module__,
        "sentence_transformers.models",
        f"sentence_transformers.models.{cls.__name__}",
        "sentence_transformers.sentence_transformer.modules",
        "sentence_transformers.base.modules",
    )
} | {f"{__name__}.{cls.__name__}": cls for cls in (Pooling, AttentionPoolingModule)}
# The router of older versions.
_CLASSES |= dict.fromkeys(("sentence_transformers.models.Asym", "sentence_transformers.models.Asym.Asym"), host.Router)


def _find_pooling(model: object) -> tuple[str, host.Pooling]:
    """The one pooling module of a model, with its place in it."""
    if not isinstance(model, SentenceTransformer):
        raise TypeError(f"model must be a SentenceTransformer, got {type(model).__name__}")
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, host.Pooling)]
    if len(found) != 1:
        names = ", ".join(f"{name} ({type(module).__name__})" for name, module in found or model.named_children())
        what = "none" if not found else str(len(found))
        raise ValueError(f"model must have one pooling module, got {what}: {names}")
    return found[0]


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def _put(model: SentenceTransformer, name: str, old: host.Pooling, new: host.Pooling) -> None:
    before, after = old.get_embedding_dimension(), new.get_embedding_dimension()
    place, _, last = name.rpartition(".")
    behind = list(model.get_submodule(place).named_children())
    behind = behind[[child for child, _ in behind].index(last) + 1 :]
    behind += [] if not place else list(model.named_children())[1:]
    built = [type(module).__name__ for _, module in behind if any(True for _ in module.parameters())]
    if before != after and built:
        raise ValueError(
            f"pooling_mode {new.pooling_mode!r} gives vectors of dimension {after}, and {', '.join(built)} behind the "
            f"pooling was built for {before}"
        )
    parameter = next(model.parameters(), None)
    new.to(device=model.device, dtype=None if parameter is None else parameter.dtype)
    new.train(old.training)
    model.get_submodule(place).register_module(last, new)
    new.on_model_ready(model)
