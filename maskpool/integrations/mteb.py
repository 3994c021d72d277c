"""MTEB: any of its text tasks under any pooling and padding plan, with or without the pads."""

from __future__ import annotations

import json
import os
from difflib import get_close_matches
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from maskpool.encoder import evaluating, weights_hash
from maskpool.errors import InvalidTypeError, InvalidValueError
from maskpool.integrations import require
from maskpool.integrations.sentence_transformers import Pooling, open_model, warn_if_pooled_otherwise, with_pooling
from maskpool.integrations.st_host import SentenceTransformer, batch_to_device, truncate_embeddings
from maskpool.integrations.st_host import modules as host
from maskpool.plans import Plan

require("mteb", "mteb")

import mteb  # noqa: E402  # after the check that it can be
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402  # the same
from mteb.models import ModelMeta  # noqa: E402  # the same
from mteb.models.abs_encoder import AbsEncoder  # noqa: E402  # the same
from mteb.models.model_meta import ScoringFunction  # noqa: E402  # the same
from mteb.types import PromptType  # noqa: E402  # the same
from tqdm.auto import tqdm  # noqa: E402  # the same

Vectors: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.float32]]

_TEXTS_AT_ONCE = 1024  # tokenised together to learn their lengths
_EXAMPLE = "TwentyNewsgroupsClustering.v2"
_OTHER_MODALITIES = ("image", "audio", "video")  # keys of MTEB's batches


class _Host(AbsEncoder):
    """MTEB's choice of prompts and similarities for a model.

    It is not a base of the public class, because the hints of MTEB's class cannot be resolved at run time.
    """

    def __init__(self, model: SentenceTransformer, meta: ModelMeta, prompts: dict[str, str] | None) -> None:
        self.model, self.mteb_model_meta, self.model_prompts = model, meta, prompts

    def encode(self, *_: object, **__: object) -> Vectors:
        raise NotImplementedError


class PoolingEncoder:
    """A model for ``mteb.evaluate`` whose pooling excludes the pads, or includes them, under a padding plan.

    Pooling, pads and plan are in the ``experiment_kwargs`` of its metadata, and its revision is a hash of the
    weights and of what else makes a vector (the modules' settings, prompts, truncation), and MTEB's cache of
    results keeps all of them apart. It does not see another tokenizer with the same weights: use another cache.

    The model runs as MTEB runs it (prompts, dense layers, normalisation, truncation). With ``pads="included"`` the
    transformer still gets the right mask, and only the pooling reads every position as real: the bug that the
    mask is there to prevent. Batches are the plan's: ``encode_kwargs={"batch_size": ...}`` of MTEB has no effect.

    Args:
        model: A ``SentenceTransformer``, which is left as it is, or the name or folder of one, opened by `load`.
        pooling_mode: Another mode than the model's, as `build_pooling` takes it.
        pads: Whether the pooling leaves pads out.
        plan: How texts are batched and padded; by default as the host's ``encode`` does it.
        seed: Shuffles the texts of a plan of random order.

    Raises:
        TypeError: ``model`` or ``plan`` is something else.
        ValueError: Another ``pads``; or as `replace_pooling` says.

    Warns:
        UserWarning: ``pooling_mode`` is not the mode that a model given by name is saved with.

    Example::

        encoder = PoolingEncoder("all-MiniLM-L6-v2", pads="included", plan=Plan(pad_to=128))
        results = mteb.evaluate(encoder, mteb.get_tasks(["Banking77Classification"]))
    """

    mteb_model_meta: ModelMeta

    def __init__(
        self,
        model: SentenceTransformer | str | os.PathLike[str],
        pooling_mode: str | tuple[str, ...] | list[str] | None = None,
        pads: Literal["excluded", "included"] = "excluded",
        plan: Plan | None = None,
        seed: int = 0,
    ) -> None:
        if pads not in ("excluded", "included"):
            raise InvalidValueError("pads", f"must be 'excluded' or 'included', got {pads!r}")
        plan = Plan() if plan is None else plan
        if not isinstance(plan, Plan):
            raise InvalidTypeError(
                "plan", f"must be a maskpool.plans.Plan, such as Plan(pad_to=128), got {type(plan).__name__}"
            )
        given = open_model(model)
        self.model = with_pooling(given, pooling_mode)
        if not isinstance(model, SentenceTransformer):
            warn_if_pooled_otherwise(model, given, pooling_mode, stacklevel=2)
        self.pads, self.plan, self.seed = pads, plan, seed
        pooling = next(module for module in self.model.modules() if isinstance(module, Pooling))
        if pads == "included":
            pooling.register_forward_pre_hook(_all_real)
        prompts: Any = {name: prompt for name, prompt in self.model.prompts.items() if prompt is not None}
        known_prompts, _ = _Host.validate_task_to_prompt_name(prompts, raise_for_invalid_keys=False)
        settings = pooling.get_config_dict()
        del settings["embedding_dimension"]
        if not isinstance(pooling.pooling_mode, str):
            settings["pooling_mode"] = "+".join(pooling.pooling_mode)
        experiment = settings | {"pads": pads, **vars(plan)} | ({"seed": seed} if plan.order == "random" else {})
        card = given.model_card_data
        name = card.model_name or card.base_model or "sentence-transformer" if model is given else model
        similarity = given.similarity_fn_name
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                # Not the model's own name: these results must not be filed as the model's.
                "name": "maskpool/" + str(name).rstrip("/").rpartition("/")[2],
                "revision": _hash_of(self.model),
                "max_tokens": self.model.max_seq_length,
                "embed_dim": self.model.get_embedding_dimension(),
                # MTEB's base class knows these two, and else asks the model only if none is named.
                "similarity_fn_name": ScoringFunction(similarity) if similarity in ("cosine", "dot") else None,
                "framework": ["Sentence Transformers", "PyTorch"],
                "experiment_kwargs": experiment,
            }
        )
        self._host = _Host(self.model, self.mteb_model_meta, known_prompts)

    @torch.inference_mode()
    def encode(
        self,
        inputs: DataLoader[Any],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Any,
    ) -> Vectors:
        """Embed a task's texts under the plan; MTEB calls this.

        Returns:
            float32, (texts, dim), in the order of the texts.

        Raises:
            ValueError: The task has no texts, or not only texts; one that is longer than the plan's fixed length; or
                another precision than float32 is asked for.
        """
        if kwargs.get("precision") not in (None, "float32"):
            raise InvalidValueError(
                "precision",
                f"must be 'float32', got {kwargs['precision']!r}: vectors are not quantised here, drop it "
                "from encode_kwargs",
            )
        texts: list[str] = []
        for batch in inputs:
            if "text" not in batch or any(modality in batch for modality in _OTHER_MODALITIES):
                raise InvalidValueError(
                    "tasks",
                    f"must have texts only, got {', '.join(batch)} from {task_metadata.name}: choose tasks by "
                    'mteb.get_tasks(modalities=["text"], exclusive_modality_filter=True)',
                )
            texts += batch["text"]
        prompt = self._prompt(task_metadata, prompt_type)
        task = {} if prompt_type is None else {"task": prompt_type.value}  # for models of two towers
        vectors = np.zeros((len(texts), self.model.get_embedding_dimension() or 0), np.float32)
        lengths = self._lengths(texts, prompt, task)
        characters = np.array([len(text) for text in texts], np.int64)  # without the prompt, as the host counts them
        batches = self.plan.batches(lengths, np.random.default_rng(self.seed), characters)
        with evaluating(self.model):  # its modules are the user's
            for places, width in tqdm(batches, desc="Batches", disable=not kwargs.get("show_progress_bar", False)):
                features = self.model.preprocess([texts[place] for place in places], prompt=prompt, **task)
                features = _repad(features, width, self.plan.side, self._pad_token_id)
                pooled = self.model(batch_to_device(features, self.model.device), **task)["sentence_embedding"]
                if self.model.truncate_dim is not None:
                    pooled = truncate_embeddings(pooled, self.model.truncate_dim)
                vectors[places] = pooled.float().cpu().numpy()
        return vectors

    def similarity(self, embeddings1: Vectors | Tensor, embeddings2: Vectors | Tensor) -> Tensor:
        """Compute the similarity of each embedding of the first set to each of the second, (first, second)."""
        return torch.as_tensor(self._host.similarity(embeddings1, embeddings2))

    def similarity_pairwise(self, embeddings1: Vectors | Tensor, embeddings2: Vectors | Tensor) -> Tensor:
        """Compute the similarity of each embedding of the first set to the same row of the second, (rows,)."""
        return torch.as_tensor(self._host.similarity_pairwise(embeddings1, embeddings2))

    def _prompt(self, task_metadata: TaskMetadata, prompt_type: PromptType | None) -> str | None:
        """Return the prompt of each text: MTEB's choice, else what the host's encode, encode_query, ... choose."""
        name = self._host.get_prompt_name(task_metadata, prompt_type)
        if name is None:
            kinds = {"query": ("query",), "document": ("document", "passage", "corpus")}
            known = kinds[prompt_type.value] if prompt_type else ()
            name = next((kind for kind in known if kind in self.model.prompts), self.model.default_prompt_name)
        return None if name is None else self.model.prompts[name]

    @property
    def _pad_token_id(self) -> int:
        tokens = (self.model.tokenizer.pad_token_id, self.model.tokenizer.eos_token_id, 0)
        return next(token for token in tokens if isinstance(token, int))

    def _lengths(
        self, texts: list[str], prompt: str | None, task: dict[str, str]
    ) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Tokens of each text, prompt and special tokens included."""
        lengths = [np.zeros(0, np.int64)]
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            features = self.model.preprocess(texts[start : start + _TEXTS_AT_ONCE], prompt=prompt, **task)
            if "attention_mask" not in features:
                raise InvalidValueError(
                    "model",
                    f"must give an attention_mask for a batch of texts, got {', '.join(features)}: a plan has "
                    "nothing to pad where texts are flat (set model[0].unpad_inputs = False) or have no mask",
                )
            lengths.append(features["attention_mask"].sum(dim=1).numpy())
        return np.concatenate(lengths)


def clustering_task(name: str) -> tuple[list[str], list[str]]:
    """The texts of one of MTEB's clustering tasks and their labels, of a hierarchy the first.

    Args:
        name: As MTEB calls it, such as ``"TwentyNewsgroupsClustering.v2"``. Its first evaluation split is read.

    Raises:
        ValueError: The task does not exist, is of another kind, has several languages, or cannot be downloaded.
    """
    try:
        task: Any = mteb.get_task(name)  # Any: kinds of tasks name their columns each in its own way
    except KeyError as error:
        known = [task.metadata.name for task in mteb.get_tasks(task_types=["Clustering"])]
        near = get_close_matches(name, known, n=1)
        guess = f" (did you mean {near[0]!r}?)" if near else ""
        raise InvalidValueError(
            "name", f"must be one of MTEB's clustering tasks, such as {_EXAMPLE!r}, got {name!r}{guess}"
        ) from error
    if task.metadata.type != "Clustering" or task.metadata.modalities != ["text"]:
        raise InvalidValueError(
            "name",
            f"must be one of MTEB's clustering tasks of texts, got {name!r}, a task of {task.metadata.type} on "
            f"{', '.join(task.metadata.modalities)}",
        )
    if len(task.hf_subsets) > 1:
        raise InvalidValueError(
            "name",
            f"must be one of MTEB's clustering tasks with one subset, got {name!r}, which has several: "
            f"{', '.join(task.hf_subsets)}",
        )
    if not task.data_loaded:
        try:
            task.load_data()
        except Exception as error:  # all that the network and the datasets' builders raise
            raise InvalidValueError(
                "name",
                f"must be one of MTEB's clustering tasks that can be downloaded, got {name!r}: "
                f"{(str(error).strip() or type(error).__name__).splitlines()[0]}",
            ) from error
    split = task.metadata.eval_splits[0]
    splits = task.dataset if split in task.dataset else task.dataset[task.hf_subsets[0]]
    texts: list[str] = []
    labels: list[str] = []
    column = getattr(task, "input_column_name", "sentences")
    for row in splits[split]:
        together = row[column] if isinstance(row[column], list) else [row[column]]  # the older tasks hold lists
        given = row["labels"] if isinstance(row[column], list) else [row["labels"]]
        texts += together
        labels += [str(label[0] if isinstance(label, list) else label) for label in given]
    return texts, labels


def _all_real(module: torch.nn.Module, arguments: tuple[dict[str, Any]]) -> tuple[dict[str, Any]]:
    (features,) = arguments
    return ({**features, "attention_mask": torch.ones_like(features["attention_mask"])},)


def _repad(features: dict[str, Any], width: int, side: str, pad_token_id: int) -> dict[str, Any]:
    """The same tokens, padded to a width on a side."""
    real = features["attention_mask"].bool()
    columns = torch.arange(width) if side == "right" else torch.arange(width - 1, -1, -1)
    where = columns < real.sum(dim=1, keepdim=True)
    moved = dict(features)
    for name, value in features.items():
        if isinstance(value, Tensor) and value.shape[:2] == real.shape:
            fill = pad_token_id if name == "input_ids" else 0
            moved[name] = value.new_full((*where.shape, *value.shape[2:]), fill)
            moved[name][where] = value[real]
    return moved


def _hash_of(model: SentenceTransformer) -> str:
    """Hash the weights and everything else that vectors depend on, except the pooling's settings."""
    modules = [
        (name, type(module).__name__, module.get_config_dict())
        for name, module in model.named_modules()
        if isinstance(module, host.Module) and not isinstance(module, Pooling)
    ]
    settings = [model.max_seq_length, model.prompts, model.default_prompt_name, model.truncate_dim]
    settings += [model.similarity_fn_name]
    return weights_hash(model, json.dumps([modules, settings], default=str).encode())[:40]
