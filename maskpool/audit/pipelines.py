"""Wrap everything that embeds texts as one callable with checked results."""

from __future__ import annotations

import inspect
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from maskpool.audit.trace import states_in
from maskpool.encoder import evaluating, token_limit
from maskpool.errors import EndpointError, InvalidTypeError, InvalidValueError, rename_arguments
from maskpool.poolings.build import build_pooling

_WHAT = (
    "a callable from a list of texts to an array of vectors, a SentenceTransformer, a maskpool SentenceEmbedder, a "
    "tuple (model, tokenizer, pooling), or the name or folder of a model"
)


class Pipeline:
    """A pipeline as a callable that counts its calls.

    Args:
        pipeline: The pipeline as the user passes it; see `maskpool.audit_padding`.
        on_call: Called after each call with the number of calls so far.

    Raises:
        InvalidTypeError: The object is not a pipeline.
    """

    def __init__(self, pipeline: object, on_call: Callable[[int], None] | None = None) -> None:
        self.calls = 0
        self._on_call = on_call
        self.name = type(pipeline).__name__
        self.precision = 0.0  # the spacing of numbers near 1 in its vectors
        self.scope = ""  # the route or prompt, if it has several
        parts = pipeline if isinstance(pipeline, tuple) else (pipeline, getattr(pipeline, "model", None))
        self.modules = [part for part in parts if isinstance(part, nn.Module)]
        kinds = {kind.__name__ for kind in type(pipeline).__mro__}
        self._embed: Callable[[list[str]], Any]
        if isinstance(pipeline, tuple):
            self._embed = self._of_parts(pipeline)
        elif "SentenceTransformer" in kinds:
            host: Any = pipeline
            taken = inspect.signature(host.encode).parameters
            every = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
            self._embed = lambda texts: host.encode(
                texts,
                **{
                    name: value
                    for name, value in (
                        ("batch_size", len(texts)),
                        ("show_progress_bar", False),
                        ("convert_to_tensor", True),
                    )
                    if every or name in taken
                },
            )
            self.scope = _scope_of(host)
        elif "SentenceEmbedder" in kinds:
            embedder: Any = pipeline
            self._embed = lambda texts: embedder.embed(texts, batch_size=len(texts))
        elif isinstance(pipeline, nn.Module):
            raise InvalidTypeError(
                "pipeline",
                f"must be {_WHAT}, got a model without its tokenizer, {self.name}: pass (model, tokenizer, 'mean'), or "
                "a function that tokenises, runs the model and pools",
            )
        elif callable(pipeline):
            self.name = getattr(pipeline, "__name__", self.name)
            self._embed = pipeline
        else:
            raise InvalidTypeError("pipeline", f"must be {_WHAT}, got {self.name}")

    def _of_parts(self, parts: tuple[Any, ...]) -> Callable[[list[str]], Any]:
        if len(parts) != 3 or not callable(parts[0]) or not callable(parts[1]):
            kinds = ", ".join(type(part).__name__ for part in parts)
            raise InvalidTypeError("pipeline", f"must be {_WHAT}, got a tuple of ({kinds})")
        model, tokenizer, pooling = parts
        self.name = type(model).__name__
        if isinstance(pooling, (str, list, tuple)):
            with rename_arguments({"pooling_mode": "pooling"}):
                pooling = build_pooling(pooling, getattr(getattr(model, "config", None), "hidden_size", None))
        if not callable(pooling):
            raise InvalidTypeError(
                "pooling",
                "must be a mode such as 'mean', a layer, or a callable (token_embeddings, attention_mask) -> vectors, "
                f"got {type(pooling).__name__}",
            )
        options: dict[str, Any] = {}
        if hasattr(tokenizer, "padding_side"):
            if tokenizer.pad_token is None:
                raise InvalidTypeError(
                    "tokenizer",
                    "must have a pad token, got one without: set tokenizer.pad_token = tokenizer.eos_token, or pass a "
                    "maskpool SentenceEmbedder, which masks by length",
                )
            options = {"padding": True, "return_tensors": "pt"}
            if hasattr(model, "config"):
                options |= {"truncation": True, "max_length": token_limit(tokenizer, model)}
        names = inspect.signature(model.forward if isinstance(model, nn.Module) else model).parameters
        every = any(parameter.kind is parameter.VAR_KEYWORD for parameter in names.values())
        device = next((p.device for p in model.parameters()), None) if isinstance(model, nn.Module) else None

        def embed(texts: list[str]) -> Any:
            features: Mapping[str, Tensor] = {name: t.to(device) for name, t in tokenizer(texts, **options).items()}
            output = model(**{name: t for name, t in features.items() if every or name in names})
            states = states_in(output, tuple(features["input_ids"].shape))
            if states is None:
                raise InvalidTypeError(
                    "model", f"must give token states (batch, seq, dim), got {type(output).__name__}"
                )
            mask = features.get("attention_mask", torch.ones_like(features["input_ids"]))
            return pooling(states, mask)

        return embed

    def __call__(self, texts: Sequence[str]) -> Annotated[Tensor, "texts dim"]:
        """Embed texts in one call.

        Raises:
            InvalidValueError: The pipeline raises, or does not return one row of numbers per text.
        """
        self.calls += 1
        try:
            with torch.no_grad():
                vectors = self._embed(list(texts))
            rows = self._numbers(vectors)
        except EndpointError:  # names the server and the way out
            raise
        except Exception as error:  # user code raises anything
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InvalidValueError(
                "pipeline",
                f"must give one vector for each text; for {len(texts)} texts it raised {type(error).__name__}: "
                f"{reason}. Pass {_WHAT}",
            ) from error
        if self._on_call is not None:
            self._on_call(self.calls)
        if rows.ndim != 2 or len(rows) != len(texts):
            raise InvalidValueError(
                "pipeline",
                f"must give an array of shape (texts, dim), one row for each text; for {len(texts)} texts it gave "
                f"{tuple(rows.shape)}",
            )
        return rows

    def _numbers(self, vectors: Any) -> Tensor:
        if isinstance(vectors, Tensor):
            rows = vectors.detach().to_dense() if vectors.is_sparse else vectors.detach()
        elif hasattr(vectors, "__array__") or (isinstance(vectors, (list, tuple)) and vectors and not _nested(vectors)):
            rows = torch.stack([torch.as_tensor(row).detach().cpu() for row in vectors])
        else:
            rows = torch.as_tensor(vectors)
        if rows.is_complex():
            raise InvalidTypeError(
                "vectors", "must hold real numbers, got complex ones: pass torch.view_as_real(vectors).flatten(1)"
            )
        if rows.is_floating_point():
            self.precision = max(self.precision, torch.finfo(rows.dtype).eps)
        return rows.to("cpu", torch.float64)


def _scope_of(host: Any) -> str:
    """Say which prompt and route the default call of a SentenceTransformer runs; empty without a choice."""
    prompts = [name for name, prompt in (getattr(host, "prompts", None) or {}).items() if prompt]
    routes = any(type(module).__name__ == "Router" for module in host.modules())
    default = getattr(host, "default_prompt_name", None)
    parts = [f"the default route, {host.default_route!r}" if hasattr(host, "default_route") else "the default route"]
    if prompts:
        parts = [*(parts if routes else []), f"the prompt {default!r}" if default else "no prompt"]
    return f"audited with {' and '.join(parts)} only" if prompts or routes else ""


def _nested(vectors: Sequence[Any]) -> bool:
    return isinstance(vectors[0], (list, tuple, float, int))


@contextmanager
def restoring(known: Sequence[nn.Module] = ()) -> Iterator[None]:
    """Restore buffers and modes of modules that run, and the states of random generators."""
    modes = {part: part.training for module in known for part in module.modules()}
    seen: dict[nn.Module, dict[str, tuple[Tensor, Tensor]]] = {}

    def remember(module: nn.Module, _: Any) -> None:
        if module not in seen:
            seen[module] = {name: (t, t.clone()) for name, t in module.named_buffers(recurse=False)}

    python_state = random.getstate()
    numpy: Any = sys.modules.get("numpy")
    numpy_state = numpy.random.get_state() if numpy is not None else None
    handle = register_module_forward_pre_hook(remember)
    try:
        # Compiled code does not call hooks.
        with torch.random.fork_rng(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        handle.remove()
        random.setstate(python_state)
        if numpy is not None:
            numpy.random.set_state(numpy_state)
        for module, training in modes.items():  # a host may leave evaluation mode set
            module.training = training
        for module, buffers in seen.items():
            for name, (tensor, numbers) in buffers.items():
                module._buffers[name] = tensor  # some modules replace it by a longer one
                if not torch.equal(tensor, numbers):  # written by a module in training mode
                    tensor.copy_(numbers)


@contextmanager
def evaluated(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Run modules in evaluation mode."""
    with ExitStack() as stack:
        for module in dict.fromkeys(modules):
            stack.enter_context(evaluating(module))
        yield
