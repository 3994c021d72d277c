"""Ray: embed a corpus with the actors of a Ray cluster, or the texts of a dataset of one's own.

Ray Data distributes, restarts and retries; what an actor computes is the code of `maskpool.embed`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from maskpool.embed.engine import OpenModel
from maskpool.embed.manifest import differences
from maskpool.embed.parts import PartSummary
from maskpool.embed.settings import Dtype, Settings, check_positive
from maskpool.embed.sources import Slice
from maskpool.errors import (
    EndpointError,
    InvalidTypeError,
    InvalidValueError,
    MaskpoolError,
    RequirementError,
    StorageError,
    UnfinishedError,
    printable,
)
from maskpool.integrations import require

T = TypeVar("T")
# Settings of Ray's processes, which are read when Ray starts; a variable that is set already keeps its value.
_ENVIRONMENT = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # its notes on actors are for developers of Ray
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run`, Ray would upload the working folder
    # Otherwise Ray tries for four minutes to reach a cluster that does not answer.
    "RAY_gcs_server_port_wait_time_s": "1",
    "RAY_py_gcs_connect_timeout_s": "10",
}
_CONNECT_SECONDS = 10
_OBJECT_STORE_BYTES = 100_000_000  # of a local Ray: slices and summaries are small
_ERRORS_RETRIED = 3
_DEATHS_RETRIED = 10  # of the process that embeds the same slice
_RESUMES = ": finished parts are kept, and the same call resumes from there"
_WORDS = 300


@dataclass(frozen=True)
class RayEngine:
    """Embeds the slices of a run with actors of Ray: an engine for `maskpool.embed_corpus`.

    Ray Data maps the list of slices over a pool of actors. Each actor opens the model once, reads its slices, and
    writes their parts: inputs, output and a model given by its folder must have the same paths on every node. The parts
    have the same bytes as those of a local run with the same number of threads and the same versions.

    On a CPU, each actor computes in as many threads as torch has in this process, and takes as many CPUs of Ray: set
    ``OMP_NUM_THREADS`` to the number of cores that one actor should have. A slice whose process dies is embedded again
    by another process, and a slice that fails because of a file is tried again; no slice is left out.

    Args:
        address: The address of a cluster, ``"10.0.0.1:6379"``, or ``"auto"`` for the cluster that this machine is a
            node of. None uses the Ray that this process is connected to, else the address in the variable
            ``RAY_ADDRESS``; without either, Ray is started on this machine and stopped at the end.
        num_actors: The number of actors, each with a model.
        gpus_per_actor: The share of a GPU that an actor gets; 0 for a model on a CPU.

    Raises:
        InvalidTypeError: An argument has the wrong type.
        InvalidValueError: An argument is not accepted.
        RequirementError: Ray is missing or too old.

    Example::

        from maskpool import embed_corpus
        from maskpool.integrations.ray import RayEngine

        engine = RayEngine(address="auto", num_actors=4, gpus_per_actor=1)
        embed_corpus("corpus/*.parquet", "/shared/vectors", device="cuda", engine=engine)
    """

    address: str | None = None
    num_actors: int = 1
    gpus_per_actor: float = 0

    def __post_init__(self) -> None:
        """Refuse arguments that are not accepted, and a missing Ray."""
        require("ray", "ray")
        if not (self.address is None or isinstance(self.address, str)):
            raise InvalidTypeError("address", f"must be a string, got {type(self.address).__name__}")
        if self.address is not None and "://" in self.address:
            raise InvalidValueError(
                "address",
                f"must be host:port or 'auto', got {self.address}: run this on a node of the cluster",
            )
        check_positive("num_actors", self.num_actors)
        gpus = self.gpus_per_actor
        if isinstance(gpus, bool) or not isinstance(gpus, int | float) or not 0 <= gpus <= 1:
            raise InvalidValueError("gpus_per_actor", f"must be a number from 0 to 1, got {gpus!r}")

    @contextmanager
    def open(self, settings: Settings) -> Iterator[OpenModel]:
        """Connect to Ray, and open the model in one of its processes to learn what the vectors depend on.

        Args:
            settings: The settings of the run.

        Yields:
            The model.

        Raises:
            EndpointError: The cluster cannot be reached.
            InvalidValueError: The cluster has no room for the actors.
            MaskpoolError: The model cannot be opened or pooled in a process of Ray.
        """
        cpus, threads = self._cpus_and_threads(settings)
        settings = _with_whole_paths(settings)
        with _connected(self.address):
            import ray

            list_nodes: Callable[[], list[dict[str, Any]]] = ray.nodes
            if not _grows():
                self._refuse_without_room([node["Resources"] for node in list_nodes() if node["Alive"]], cpus)
            remote = ray.remote(num_cpus=cpus, num_gpus=self.gpus_per_actor)(_identity)
            identity, notes = _answer(lambda: ray.get(remote.remote(settings, threads)))

            def embed(slices: Sequence[Slice], out: Path, advance: Callable[[int], None]) -> Iterator[PartSummary]:
                constructor = {"settings": settings, "out": out.resolve(), "threads": threads, "identity": identity}
                for batch in _batches(slices, constructor, self.num_actors, cpus, self.gpus_per_actor):
                    for pickled in batch["result"]:
                        summary: PartSummary = _unwrapped(pickle.loads(pickled))
                        advance(summary.input_rows)
                        yield summary

            yield OpenModel(identity, notes, embed)

    def _cpus_and_threads(self, settings: Settings) -> tuple[int, int]:
        """Return the CPUs of Ray that an actor takes, and the threads that it computes in."""
        import torch

        if settings.device.partition(":")[0] == "cpu":
            if self.gpus_per_actor:
                raise InvalidValueError(
                    "gpus_per_actor",
                    f"must be 0 for a model on a CPU, got {self.gpus_per_actor}: set `device` to 'cuda'",
                )
            return torch.get_num_threads(), torch.get_num_threads()
        if not self.gpus_per_actor:
            raise InvalidValueError(
                "gpus_per_actor", f"must be greater than 0 for a model on {settings.device}: Ray hides GPUs otherwise"
            )
        return 1, torch.get_num_threads()

    def _refuse_without_room(self, nodes: Sequence[dict[str, float]], cpus: int) -> None:
        """Raise an error if nodes have no room for the actors, even without other work: they would wait without end."""
        room = sum(
            int(min(node.get(name, 0) // needed for name, needed in _needs(cpus, self.gpus_per_actor).items()))
            for node in nodes
        )
        if room >= self.num_actors:
            return
        needs = " and ".join(f"{needed:g} {name}" for name, needed in _needs(cpus, self.gpus_per_actor).items())
        have = "; ".join(", ".join(f"{node.get(name, 0):g} {name}" for name in ("CPU", "GPU")) for node in nodes[:3])
        raise InvalidValueError(
            "num_actors",
            f"must fit on the cluster, got {self.num_actors}: each takes {needs}, and there is room for {room} "
            f"(nodes of {have}); OMP_NUM_THREADS sets the CPUs of an actor",
        )


class EmbedTexts:
    """Embeds a column of texts: a class for ``Dataset.map_batches`` of Ray Data.

    Each actor of the dataset makes one instance, which opens the model. Use a `RayEngine` instead to embed files into
    parts that resume.

    A text that is missing, or that cannot be embedded, gets a row of NaN, or null in a batch of pyarrow; a warning in
    the log of the actor gives the reason.

    Args:
        text_column: The column of texts.
        vector_column: The column of vectors that is added.
        model: A model's name on the hub, or its folder, which every node must have.
        pooling: A mode, with options as in ``"topk_mean(k=3)"``; None pools as the model is saved, else by the mean.
        prompt: Text that is put in front of each text; None applies the default prompt that the model is saved with.
        normalize: Whether vectors have length 1; None as the model is saved.
        dtype: The dtype of the vectors, ``"float32"`` or ``"float16"``.
        batch_tokens: The largest number of tokens that the model computes together, pads included; None is 2,048 on a
            CPU, 16,384 elsewhere.
        device: The device that the model runs on.

    Raises:
        InvalidValueError: An argument is not accepted.
        NotFoundError: The model does not exist.

    Warns:
        UserWarning: ``pooling`` is not the one that the model is saved with, or a step of the saved model is left out.

    Example:
        >>> embed = EmbedTexts("title")
        >>> embed({"title": np.array(["A cat sits.", "A dog runs."], dtype=object)})["vector"].shape
        (2, 384)

        In a dataset::

            import ray

            titles = ray.data.read_parquet("titles.parquet")
            vectors = titles.map_batches(
                EmbedTexts,
                fn_constructor_kwargs={"text_column": "title"},
                batch_size=1024,
                batch_format="pyarrow",
                num_cpus=1,
                compute=ray.data.ActorPoolStrategy(size=4),
            )
            vectors.write_parquet("vectors")
    """

    def __init__(
        self,
        text_column: str = "text",
        vector_column: str = "vector",
        model: str | os.PathLike[str] = "all-MiniLM-L6-v2",
        *,
        pooling: str | None = None,
        prompt: str | None = None,
        normalize: bool | None = None,
        dtype: Dtype = "float32",
        batch_tokens: int | None = None,
        device: str = "cpu",
    ) -> None:
        from maskpool.embed.worker import open_embedder  # loads transformers

        self.vector_column = vector_column
        self.settings = Settings(
            model=os.fspath(model),
            text_column=text_column,
            pooling=pooling,
            prompt=prompt,
            normalize=normalize,
            dtype=dtype,
            batch_tokens=batch_tokens,
            device=device,
        )
        self.embedder, notes = open_embedder(self.settings)
        for note in notes:
            warnings.warn(note, UserWarning, stacklevel=2)

    def __call__(self, batch: Any) -> Any:  # Any: pyarrow ships no types
        """Add the vectors of a batch.

        Args:
            batch: Columns as numpy arrays by their names, or a ``pyarrow.Table``.

        Returns:
            The batch with the column of vectors, (rows, dim).

        Raises:
            InvalidTypeError: The batch is neither.
            InvalidValueError: It does not have the column of texts.
        """
        import pyarrow as pa

        is_table = isinstance(batch, pa.Table)
        if not is_table and not isinstance(batch, dict):
            raise InvalidTypeError("batch", f"must be of batch_format 'numpy' or 'pyarrow', got {type(batch).__name__}")
        names = batch.column_names if is_table else list(batch)
        column = self.settings.text_column
        if column not in names:
            raise InvalidValueError("text_column", f"must be one of {', '.join(names)}, got {column}")
        vectors, has_vector = self._vectors(batch[column].to_pylist() if is_table else batch[column].tolist())
        if not is_table:
            vectors[~has_vector] = np.nan
            return {**batch, self.vector_column: vectors}
        kind = pa.list_(pa.from_numpy_dtype(vectors.dtype), vectors.shape[1])
        rows = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=kind, mask=pa.array(~has_vector))
        return batch.append_column(self.vector_column, rows)

    def _vectors(self, values: Sequence[object]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        from maskpool.embed.worker import embed_texts

        texts = [value if isinstance(value, str) else None for value in values]
        embedded = embed_texts(texts, self.embedder, self.settings)
        if embedded.failed:
            place, reason = min(embedded.failed.items())
            warnings.warn(
                f"{len(embedded.failed)} of {len(texts)} texts could not be embedded: text {place}: {reason}",
                UserWarning,
                stacklevel=3,
            )
        return embedded.vectors, embedded.has_vector


class _SliceActor:
    """Embeds slices in an actor of Ray Data.

    Errors that another attempt would repeat are returned, not raised: Ray would wrap them in its own.
    """

    def __init__(self, settings: Settings, out: Path, threads: int, identity: dict[str, Any]) -> None:
        self.settings, self.out = settings, out
        self.refusal: MaskpoolError | None = None
        try:
            self.embedder, own, _ = _opened(settings, threads)
            different = list(differences(identity, own))
            if different:
                raise RequirementError(
                    f"the node {socket.gethostname()} would compute other vectors than the first node that was asked: "
                    f"{'; '.join(different)}; all nodes need the same model and versions"
                )
        except MaskpoolError as error:
            self.refusal = error

    def __call__(self, batch: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Embed the slices of a batch, and return a summary or an error for each."""
        results = [self._embedded(pickle.loads(pickled)) for pickled in batch["slice"]]
        return {"result": np.array([pickle.dumps(result) for result in results], dtype=object)}

    def _embedded(self, piece: Slice) -> PartSummary | MaskpoolError:
        from maskpool.embed.worker import embed_slice

        if self.refusal is not None:
            return self.refusal
        if _deaths() > _DEATHS_RETRIED:
            return UnfinishedError(
                f"the process that embeds rows {piece.first_row} to {piece.first_row + piece.rows - 1} died "
                f"{_deaths()} times, for example for lack of memory{_RESUMES}"
            )
        try:
            return embed_slice(piece, self.embedder, self.settings, self.out)
        except StorageError:  # another attempt may succeed, for example on a network file system
            raise
        except MaskpoolError as error:
            return error


def _opened(settings: Settings, threads: int) -> tuple[Any, dict[str, Any], list[str]]:
    """Open the model in a process of Ray: the embedder, what its vectors depend on, and notes."""
    import torch

    from maskpool.embed.worker import identity, open_embedder

    torch.set_num_threads(threads)
    embedder, notes = open_embedder(settings)
    return embedder, identity(embedder, settings), notes


def _identity(settings: Settings, threads: int) -> tuple[dict[str, Any], list[str]] | MaskpoolError:
    """Open the model in a process of Ray to learn what its vectors depend on; an error is returned, not raised."""
    try:
        _, identity, notes = _opened(settings, threads)
    except MaskpoolError as error:
        return error
    return identity, notes


def _deaths() -> int:
    """Return how many processes have died in the current task."""
    from ray._private.worker import global_worker  # no public name gives the number

    worker: Any = global_worker
    return int(worker.core_worker.get_current_task_attempt_number())


def _batches(
    slices: Sequence[Slice], constructor: dict[str, Any], num_actors: int, cpus: int, gpus: float
) -> Iterator[dict[str, Any]]:
    """Map slices over actors, and yield the results of slices as they are finished."""
    if not slices:
        return
    import ray.data

    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = context.print_on_execution_start = context.enable_auto_log_stats = False
    context.max_errored_blocks = 0  # otherwise Ray leaves out slices that fail
    context.retried_map_errors, context.max_map_retries = True, _ERRORS_RETRIED
    context.raise_original_map_exception = True
    context.max_consecutive_actor_init_deaths = _ERRORS_RETRIED
    context.execution_no_progress_timeout_s = -1  # a slice may take hours
    items = [{"slice": pickle.dumps(replace(piece, path=os.path.abspath(piece.path)))} for piece in slices]
    with ray.data.DataContext.current(context):
        dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            _SliceActor,
            fn_constructor_kwargs=constructor,
            batch_size=1,
            batch_format="numpy",
            # One slice at a time: an actor that starts first must not take the slices of the others.
            compute=ray.data.ActorPoolStrategy(size=min(num_actors, len(items)), max_tasks_in_flight_per_actor=1),
            num_cpus=cpus,
            num_gpus=gpus,
        )
    batches = iter(dataset.iter_batches(batch_size=None, prefetch_batches=0, batch_format="numpy"))
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # it prints tracebacks, which the error below replaces
    try:
        while (batch := _answer(lambda: next(batches, None))) is not None:
            yield batch
    finally:
        logger.setLevel(level)


def _answer(ask: Callable[[], T | MaskpoolError]) -> T:
    """Wait for an answer of Ray, and turn its errors into one sentence.

    Raises:
        MaskpoolError: The answer, or what caused the error.
        UnfinishedError: Another error.
    """
    try:
        answer = ask()
    except Exception as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, MaskpoolError):
            raise cause from None
        words = printable(next(iter(str(cause or error).strip().splitlines()[-1:]), ""))[:_WORDS]
        raise UnfinishedError(
            f"Ray ended with {type(cause or error).__name__}{f' ({words})' if words else ''}{_RESUMES}"
        ) from error
    return _unwrapped(answer)


def _unwrapped(answer: T | MaskpoolError) -> T:
    if isinstance(answer, MaskpoolError):
        raise answer
    return answer


def _with_whole_paths(settings: Settings) -> Settings:
    """Name a model's folder by its whole path: actors work in another folder."""
    return replace(settings, model=os.path.abspath(settings.model)) if os.path.isdir(settings.model) else settings


def _needs(cpus: int, gpus: float) -> dict[str, float]:
    return {"CPU": cpus} | ({"GPU": gpus} if gpus else {})


def _grows() -> bool:
    """Whether the cluster starts nodes on demand."""
    with contextlib.suppress(AttributeError, ImportError):  # no public name; Ray Data asks the same way
        from ray._private.state import state

        config = state.get_cluster_config()
        return config is not None and len(config.node_group_configs) > 0
    return False


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """Connect to Ray, or start it on this machine.

    Raises:
        EndpointError: The cluster cannot be reached.
        InvalidValueError: This process is connected to Ray already.
    """
    with _environment():
        import ray

    if ray.is_initialized():
        if address is not None:
            raise InvalidValueError("address", f"must be None in a process that is connected to Ray, got {address}")
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address == "local":
        options |= {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    elif address != "auto":
        _reach(address)
    try:
        with _environment(), _without_stderr():
            ray.init(address=address, **options)
    except Exception as error:  # ConnectionError, RuntimeError, ValueError, and errors of its processes
        words = printable(next(iter(str(error).strip().splitlines()), ""))[:_WORDS]
        if "InvalidAuthToken" in f"{error}{error.__cause__}":
            words = "it asks for a token: set RAY_AUTH_MODE=token, and give this machine the token of the cluster"
        if address == "local":
            raise EndpointError(f"Ray cannot be started on this machine ({words})") from error
        raise EndpointError(f"must be a cluster of Ray, got {address} ({words})", argument="address") from error
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Check that something listens at an address; Ray would try for minutes.

    Raises:
        EndpointError: Nothing does.
        InvalidValueError: It is not an address.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise InvalidValueError("address", f"must be host:port, such as 10.0.0.1:6379, or 'auto', got {address}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise EndpointError(
            f"must be a cluster of Ray, and nothing answers at {address} ({error}): start Ray there first",
            argument="address",
        ) from error


@contextmanager
def _environment() -> Iterator[None]:
    """Set the variables of Ray's processes that are not set, and remove them again."""
    missing = {name: value for name, value in _ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Discard what native code writes to standard error, unless its log level was chosen."""
    if os.environ.get("RAY_BACKEND_LOG_LEVEL") != _ENVIRONMENT["RAY_BACKEND_LOG_LEVEL"]:
        yield
        return
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
