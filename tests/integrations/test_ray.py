"""The Ray engine and the class for datasets. Most tests run without Ray; those that start it are in the full suite."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from filelock import FileLock

from maskpool import embed_corpus
from maskpool.embed import EmbedReport
from maskpool.embed.settings import Settings
from maskpool.embed.sources import Slice, make_plan
from maskpool.errors import (
    DataError,
    EndpointError,
    InvalidTypeError,
    InvalidValueError,
    MaskpoolError,
    NotFoundError,
    RequirementError,
    StorageError,
    UnfinishedError,
)
from maskpool.integrations import ray as ours
from maskpool.integrations.ray import EmbedTexts, RayEngine
from maskpool.integrations.transformers import SentenceEmbedder
from tests.command import assert_refused, content, run
from tests.embed.conftest import corpus as corpus  # a fixture
from tests.embed.conftest import model as model  # the same
from tests.embed.conftest import texts

HALF_A_PAIR = "w1 \ud800 w2"  # half a surrogate pair, which no tokenizer takes
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason='needs pip install "maskpool[ray]"')


# ---- the class for datasets ----


@pytest.fixture
def embed_texts(model: Path) -> EmbedTexts:
    return EmbedTexts("title", "embedding", model, batch_tokens=64)


def test_vectors_of_a_numpy_batch_are_the_embedders(embed_texts: EmbedTexts, model: Path) -> None:
    """A batch of numpy arrays keeps its columns and gets the vectors of SentenceEmbedder, in its order."""
    batch = {"title": np.array(texts(), dtype=object), "row": np.arange(len(texts()))}
    result = embed_texts(batch)
    assert list(result) == ["title", "row", "embedding"]
    assert list(batch) == ["title", "row"]
    assert result["embedding"].dtype == np.float32
    np.testing.assert_allclose(result["embedding"], SentenceEmbedder(model).embed(texts()), rtol=0, atol=1e-5)


def test_texts_without_a_vector_are_nan_or_null(embed_texts: EmbedTexts) -> None:
    """Missing texts, and texts that cannot be embedded, have a row of NaN, or null in a table; a warning says why."""
    rows = ["w1 w2", None, HALF_A_PAIR, "w3"]
    with pytest.warns(UserWarning, match="1 of 4 texts could not be embedded: text 2: "):
        vectors = embed_texts({"title": np.array(rows, dtype=object)})["embedding"]
    assert np.isnan(vectors).all(axis=1).tolist() == [False, True, True, False]
    table = embed_texts(pa.table({"title": ["w1 w2", None, "w3"]}))
    assert str(table.schema.field("embedding").type) == "fixed_size_list<item: float>[32]"
    assert [row is None for row in table.column("embedding").to_pylist()] == [False, True, False]
    np.testing.assert_array_equal(table.column("embedding")[2].as_py(), vectors[3])


def test_batches_without_the_texts_are_refused(embed_texts: EmbedTexts) -> None:
    """Another batch format, or a batch without the column, is refused, and the error names what there is."""
    with pytest.raises(InvalidTypeError, match="batch must be of batch_format 'numpy' or 'pyarrow', got list"):
        embed_texts(["w1"])
    with pytest.raises(InvalidValueError, match="text_column must be one of text, row, got title"):
        embed_texts({"text": np.array(["w1"]), "row": np.array([1])})


def test_notes_on_the_model_are_warnings(model: Path) -> None:
    """What opening the model warns of is a warning where the class is made."""
    with pytest.warns(UserWarning, match="mean"):
        EmbedTexts(model=_saved_with_cls(model), pooling="mean")


def _saved_with_cls(model: Path) -> Path:
    from maskpool.integrations.sentence_transformers import load_plain, replace_pooling

    folder = model.parent / f"{model.name}-cls-{os.getpid()}"
    if not folder.exists():
        replace_pooling(load_plain(model, device="cpu"), "cls").save(str(folder))
    return folder


# ---- the engine, in this process ----


@pytest.fixture
def settings(model: Path) -> Settings:
    return Settings(model=str(model))


@pytest.fixture
def identity(settings: Settings) -> dict[str, Any]:
    answer = ours._identity(settings, threads=1)
    assert not isinstance(answer, MaskpoolError)
    return answer[0]


@pytest.fixture
def piece(corpus: Path, settings: Settings) -> Slice:
    return make_plan(corpus, settings, 13).slices[1]


@pytest.fixture
def deaths(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Return the number of processes that have died in the task, which Ray counts."""
    counted = {"deaths": 0}
    monkeypatch.setattr(ours, "_deaths", lambda: counted["deaths"])
    return counted


def answer_of(actor: Any, piece: Slice) -> Any:
    (pickled,) = actor({"slice": np.array([pickle.dumps(piece)], dtype=object)})["result"]
    return pickle.loads(pickled)


def test_an_actor_writes_the_part_of_a_slice(
    piece: Slice, settings: Settings, identity: dict[str, Any], tmp_path: Path, deaths: dict[str, int]
) -> None:
    """An actor writes the part that the local engine writes, and returns its summary."""
    embed_corpus(piece.path, tmp_path / "here", settings.model, part_rows=13)
    (tmp_path / "there").mkdir()
    summary = answer_of(ours._SliceActor(settings, tmp_path / "there", 1, identity), piece)
    assert (summary.number, summary.rows) == (1, 13)
    (part,) = content(tmp_path / "there").items()
    assert content(tmp_path / "here")[part[0]] == part[1]


def test_errors_that_would_repeat_are_returned(
    piece: Slice, settings: Settings, identity: dict[str, Any], tmp_path: Path, deaths: dict[str, int]
) -> None:
    """A changed input, a model that cannot be opened, and a slice that kills its process are returned as errors."""
    actor = ours._SliceActor(settings, tmp_path, 1, identity)
    deaths["deaths"] = ours._DEATHS_RETRIED + 1
    error = answer_of(actor, piece)
    assert isinstance(error, UnfinishedError)
    assert "rows 13 to 25 died 11 times" in str(error)
    deaths["deaths"] = 0
    Path(piece.path).write_text("", "utf-8")
    error = answer_of(actor, piece)
    assert isinstance(error, DataError)
    assert "has changed since the run began" in str(error)
    missing = Settings(model=str(tmp_path / "no model"))
    error = answer_of(ours._SliceActor(missing, tmp_path, 1, identity), piece)
    assert isinstance(error, NotFoundError)
    assert error.argument == "model"
    assert isinstance(ours._identity(missing, 1), NotFoundError)


def test_errors_of_files_are_raised_for_another_attempt(
    piece: Slice, settings: Settings, identity: dict[str, Any], tmp_path: Path, deaths: dict[str, int]
) -> None:
    """A folder that cannot be written is raised in the actor: Ray tries the slice again."""
    with pytest.raises(StorageError, match="cannot be written"):
        answer_of(ours._SliceActor(settings, tmp_path / "missing", 1, identity), piece)


def test_a_node_that_would_compute_other_vectors_is_refused(
    piece: Slice, settings: Settings, identity: dict[str, Any], tmp_path: Path
) -> None:
    """An actor whose model or versions are not those of the run embeds nothing; the error names the difference."""
    other = identity | {"versions": identity["versions"] | {"torch": "1.0"}}
    error = answer_of(ours._SliceActor(settings, tmp_path, 1, other), piece)
    assert isinstance(error, RequirementError)
    assert "versions.torch was 1.0 and is " in str(error)


@needs_ray
@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"address": 6379}, "address must be a string, got int"),
        ({"address": "ray://host:10001"}, "address must be host:port or 'auto', got ray://host:10001"),
        ({"num_actors": 0}, "num_actors must be a positive integer, got 0"),
        ({"gpus_per_actor": 2}, "gpus_per_actor must be a number from 0 to 1, got 2"),
        ({"gpus_per_actor": -0.5}, "gpus_per_actor must be a number from 0 to 1, got -0.5"),
    ],
)
def test_arguments_of_the_engine_are_checked(arguments: dict[str, Any], problem: str) -> None:
    """Arguments that are not accepted are refused when the engine is made."""
    with pytest.raises((InvalidValueError, InvalidTypeError), match=problem):
        RayEngine(**arguments)


@needs_ray
def test_gpus_need_a_device(settings: Settings) -> None:
    """GPUs for a model on a CPU, and a model on a GPU without one, are refused before Ray starts."""
    with (
        pytest.raises(InvalidValueError, match=r"gpus_per_actor must be 0 for a model on a CPU, got 0\.5"),
        RayEngine(gpus_per_actor=0.5).open(settings),
    ):
        pass
    with (
        pytest.raises(InvalidValueError, match="gpus_per_actor must be greater than 0 for a model on cuda"),
        RayEngine().open(Settings(model=settings.model, device="cuda")),
    ):
        pass


@needs_ray
def test_actors_that_do_not_fit_are_refused() -> None:
    """More actors than the nodes have room for are refused; the error says what an actor takes and what there is."""
    nodes = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 7.0}]
    RayEngine(num_actors=5)._refuse_without_room(nodes, cpus=2)
    RayEngine(num_actors=2, gpus_per_actor=0.5)._refuse_without_room(nodes, cpus=1)
    with pytest.raises(InvalidValueError) as refused:
        RayEngine(num_actors=6)._refuse_without_room(nodes, cpus=2)
    assert str(refused.value) == (
        "num_actors must fit on the cluster, got 6: each takes 2 CPU, and there is room for 5 "
        "(nodes of 4 CPU, 1 GPU; 7 CPU, 0 GPU); OMP_NUM_THREADS sets the CPUs of an actor"
    )
    with pytest.raises(InvalidValueError, match="each takes 1 CPU and 1 GPU, and there is room for 1 "):
        RayEngine(num_actors=2, gpus_per_actor=1)._refuse_without_room(nodes, cpus=1)


class RaysError(Exception):
    """An error of Ray, which has the error of the actor as its cause."""

    def __init__(self, message: str, cause: Exception | None = None) -> None:
        super().__init__(message)
        self.cause = cause


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (RaysError("Traceback …", StorageError("full", argument="out")), StorageError("full", argument="out")),
        (RaysError("ray::Map", KeyError("w")), UnfinishedError(f"Ray ended with KeyError ('w'){ours._RESUMES}")),
        (RaysError("died\n\tnode lost"), UnfinishedError(f"Ray ended with RaysError (\\tnode lost){ours._RESUMES}")),
    ],
    ids=["ours", "another", "Ray's own"],
)
def test_errors_of_ray_are_one_sentence(raised: Exception, expected: MaskpoolError) -> None:
    """An error of ours passes as it was raised in the actor; another becomes one sentence that says how to resume."""

    def ask() -> None:
        raise raised

    with pytest.raises(type(expected)) as caught:
        ours._answer(ask)
    assert str(caught.value) == str(expected)
    assert "\n" not in str(caught.value)


@needs_ray
def test_an_address_where_nothing_answers(corpus: Path, model: Path, tmp_path: Path) -> None:
    """A cluster that cannot be reached is refused in one sentence, without Ray's attempts of several minutes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = f"127.0.0.1:{server.getsockname()[1]}"
    ran = run("embed", corpus, "--out", tmp_path / "out", "--model", model, "--engine", "ray", "--ray-address", closed)
    lines = [line for line in ran.err.splitlines() if not line.endswith("…")]
    assert ran.code == 2
    assert len(lines) == 1, ran.err
    assert lines[0].startswith(f"maskpool: --ray-address must be a cluster of Ray, and nothing answers at {closed} (")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InvalidValueError, match=r"address must be host:port, such as .*, got head"):
        ours._reach("head")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--num-actors", "2"), "--num-actors has an effect on Ray only: add --engine ray, or leave it out"),
        (("--ray-address", "auto"), "--ray-address has an effect on Ray only: add --engine ray, or leave it out"),
        (("--gpus-per-actor", "0"), "--gpus-per-actor has an effect on Ray only: add --engine ray, or leave it out"),
        (("--engine", "spark"), "--engine must be local or ray, got 'spark'"),
        (("--engine", "ray", "--dry-run"), "--dry-run measures this machine: leave out --engine ray"),
    ],
)
def test_options_without_effect_are_refused(
    options: tuple[str, ...], sentence: str, corpus: Path, tmp_path: Path
) -> None:
    """Options of Ray without --engine ray, and another engine, are refused in one sentence."""
    assert_refused(run("embed", corpus, "--out", tmp_path / "out", *options), sentence)


def test_without_ray(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Ray is not installed, one sentence gives the pip command."""
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr("maskpool.integrations.version", _without("ray"))
    ran = run("embed", corpus, "--out", tmp_path / "out", "--engine", "ray")
    assert_refused(ran, r'ray is not installed, ray>=2.60 is needed here: pip install -U "maskpool\[ray\]" "ray>=2.60"')


def _without(missing: str) -> Callable[[str], str]:
    from importlib.metadata import PackageNotFoundError, version

    def fails(package: str) -> str:
        if package == missing:
            raise PackageNotFoundError(package)
        return version(package)

    return fails


# ---- a real Ray, started once for the tests below ----

PART_ROWS, PARTS = 100, 40


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start Ray as users do, connect to it, and return its address. One at a time on a machine."""
    temporary = tmp_path_factory.mktemp("r")
    command = [sys.executable, "-m", "ray.scripts.scripts"]
    # Without a token, which Ray would keep in the home folder.
    environment = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    with (
        pytest.MonkeyPatch.context() as patch,
        FileLock(Path(tmp_path_factory.getbasetemp()).parent.parent / "maskpool-ray.lock"),
    ):
        for name, value in environment.items():
            patch.setenv(name, value)
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = f"127.0.0.1:{server.getsockname()[1]}"
        start = ["start", "--head", f"--port={address.rpartition(':')[2]}"]
        start += ["--num-cpus=2", "--include-dashboard=false", f"--temp-dir={temporary}", "--block"]
        with (temporary / "log").open("wb") as log:
            head = subprocess.Popen([*command, *start], stdout=log, stderr=log)
        try:
            with ours._connected(_when_it_answers(address, head)):
                yield address
        finally:
            head.terminate()
            head.wait(60)


def _when_it_answers(address: str, head: subprocess.Popen[bytes]) -> str:
    for _ in range(600):
        assert head.poll() is None, "ray start has ended"
        try:
            ours._reach(address)
        except EndpointError:
            time.sleep(0.2)
        else:
            return address
    raise AssertionError("ray start has not answered for two minutes")


@pytest.fixture(scope="module")
def long_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a corpus of as many rows as PARTS parts hold; one of its texts cannot be embedded."""
    path = tmp_path_factory.mktemp("long") / "corpus.jsonl"
    rows = texts(PARTS * PART_ROWS)
    rows[1234] = HALF_A_PAIR
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows), "utf-8")
    return path


@pytest.fixture(scope="module")
def whole(long_corpus: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the files of a local run."""
    out = tmp_path_factory.mktemp("local") / "out"
    embed_corpus(long_corpus, out, model, part_rows=PART_ROWS)
    return content(out)


def on_ray(long_corpus: Path, out: Path, model: Path, **engine: Any) -> EmbedReport:
    return embed_corpus(long_corpus, out, model, part_rows=PART_ROWS, engine=RayEngine(**engine))


def starts_ray(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that uses the cluster: in the full suite, where processes are listed in /proc."""
    lists_processes = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
    marked: Callable[..., None] = pytest.mark.full(needs_ray(lists_processes(test)))
    return marked


def parts_of(out: Path) -> int:
    return len(list(out.glob("part-*.parquet"))) if out.exists() else 0


def wait_for(condition: Callable[[], object], what: str) -> None:
    for _ in range(6_000):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError(f"two minutes without {what}")


def actors() -> list[int]:
    """Return the processes of actors of datasets, of any Ray on this machine."""
    processes = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            if path.read_bytes().startswith(b"ray::MapWorker"):
                processes.append(int(path.parent.name))
    return processes


@starts_ray
def test_parts_on_ray_are_those_of_a_local_run(
    cluster: str, long_corpus: Path, model: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    """Two actors write the same bytes; a text that fails alone is listed without a vector, and its slice is kept."""
    report = on_ray(long_corpus, tmp_path / "out", model, num_actors=2)
    assert content(tmp_path / "out") == whole
    assert [row for row, _ in report.failed] == [1234]
    assert (report.vectors, report.new_parts) == (PARTS * PART_ROWS - 1, PARTS)
    again = run("embed", long_corpus, "--out", tmp_path / "command", "--model", model, "--engine", "ray")
    assert again.code == 1, again.err
    assert "1 texts could not be embedded and have no vector: row 1234: " in again.out
    wait_for(lambda: not actors(), "the end of the actors")


@starts_ray
def test_killed_actors_are_replaced(
    cluster: str, long_corpus: Path, model: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    """An actor killed at five moments, the first before it has opened the model, costs no row and doubles none."""
    killed = []

    def kill() -> None:
        for parts in (0, 1, 5, 12, 20):
            wait_for(lambda parts=parts: parts_of(tmp_path / "out") >= parts and actors(), "an actor")  # type: ignore[misc]  # a default
            for process in actors():
                killed.append(process)
                os.kill(process, signal.SIGKILL)
                wait_for(lambda process=process: process not in actors(), "the end of an actor")  # type: ignore[misc]  # a default

    killer = threading.Thread(target=kill)
    killer.start()
    report = on_ray(long_corpus, tmp_path / "out", model)
    killer.join()
    assert len(killed) == 5
    assert report.new_parts == PARTS
    assert content(tmp_path / "out") == whole


MASKPOOL = (sys.executable, "-m", "maskpool")
RUN = """
import sys
from maskpool import embed_corpus
from maskpool.integrations.ray import RayEngine
corpus, out, model, address, rows = sys.argv[1:]
embed_corpus(corpus, out, model, part_rows=int(rows), engine=RayEngine(address))
"""


@contextmanager
def driver(*arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", RUN, *map(str, arguments)], stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@starts_ray
@pytest.mark.parametrize("parts", [0, 1, 7, 20, 33])
def test_a_killed_driver_resumes(
    parts: int, cluster: str, long_corpus: Path, model: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    """A driver killed at five moments leaves a folder that resumes to the bytes of a local run."""
    out = tmp_path / "out"
    with driver(long_corpus, out, model, cluster, PART_ROWS) as process:
        wait_for(lambda: (out / "run.json").exists() and parts_of(out) >= parts, f"{parts} parts")
        process.send_signal(signal.SIGKILL)
    before = parts_of(out)
    assert parts <= before < PARTS
    report = on_ray(long_corpus, out, model)
    assert report.new_parts <= PARTS - before  # an actor may have finished its slice after the driver
    assert content(out) == whole


@starts_ray
def test_errors_of_the_user_end_a_run_at_once(
    cluster: str, long_corpus: Path, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A missing model, a changed input and a folder that cannot be written are one sentence each, and actors end."""
    command = ("embed", long_corpus, "--out", tmp_path / "out", "--quiet", "--engine", "ray", "--model")
    assert_refused(run(*command, tmp_path / "no model"), f"--model .*{tmp_path}/no model.*")
    changing = tmp_path / "changing.jsonl"
    changing.write_bytes(long_corpus.read_bytes())

    class Changing:
        """Changes the input after it was read."""

        @contextmanager
        def task(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
            changing.write_text('{"text": "w1"}\n', "utf-8")
            yield lambda _: None

    with pytest.raises(DataError, match="has changed since the run began"):
        embed_corpus(changing, tmp_path / "changed", model, engine=RayEngine(), progress=Changing())

    class Removing:
        """Removes the folder after it was locked."""

        @contextmanager
        def task(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
            (tmp_path / "gone").rename(tmp_path / "elsewhere")
            yield lambda _: None

    with pytest.raises(StorageError, match=f"{tmp_path}/gone cannot be written"):
        embed_corpus(long_corpus, tmp_path / "gone", model, engine=RayEngine(), progress=Removing())
    wait_for(lambda: not actors(), "the end of the actors")
    assert "Traceback" not in "".join(capfd.readouterr())


@starts_ray
def test_ctrl_c_ends_a_run_on_ray(cluster: str, long_corpus: Path, model: Path, tmp_path: Path) -> None:
    """Ctrl-C in the driver ends with exit code 130 and one sentence that says how to resume."""
    out = tmp_path / "out"
    slow = tmp_path / "slow.jsonl"  # ten parts of the command's size
    slow.write_bytes(long_corpus.read_bytes() * 25)
    command: list[object] = ["embed", slow, "--out", out, "--model", model, "--engine", "ray"]
    command += ["--ray-address", cluster, "--quiet"]
    process = subprocess.Popen([*MASKPOOL, *map(str, command)], stderr=subprocess.PIPE, text=True)
    wait_for(lambda: parts_of(out) >= 2, "two parts")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.startswith("maskpool: stopped; ")
    assert err.endswith(f" finished parts are in {out}: the same command resumes from there\n")
    assert err.count("\n") == 1


@starts_ray
def test_a_port_that_does_not_speak_is_refused(corpus: Path, model: Path, tmp_path: Path) -> None:
    """A port that accepts connections and is not Ray's is refused within two minutes, in one sentence."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        command: list[object] = ["embed", corpus, "--out", tmp_path / "out", "--engine", "ray"]
        command += ["--ray-address", address, "--quiet"]
        ran = subprocess.run([*MASKPOOL, *map(str, command)], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"maskpool: --ray-address must be a cluster of Ray, got {address}")
    assert ran.stderr.count("\n") == 1


@starts_ray
def test_texts_of_a_dataset(cluster: str, model: Path) -> None:
    """EmbedTexts adds the vectors to a dataset of Ray, in actors."""
    import ray.data

    rows = [{"id": number, "title": text} for number, text in enumerate(texts())]
    dataset = ray.data.from_items(rows).map_batches(
        EmbedTexts,
        fn_constructor_kwargs={"text_column": "title", "model": str(model)},
        batch_size=16,
        batch_format="pyarrow",
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    result = sorted(dataset.take_all(), key=lambda row: row["id"])
    vectors = np.array([row["vector"] for row in result])
    np.testing.assert_allclose(vectors, SentenceEmbedder(model).embed(texts()), rtol=0, atol=1e-5)
