"""The audit of a server: planted faults are named, right servers are clean, bad answers are refused."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from maskpool import leaks
from maskpool.audit.endpoint import EndpointReport, audit_endpoint, describe_requests
from maskpool.audit.endpoint.clients import EndpointClient
from maskpool.audit.endpoint.recognition import Recipe, ReferenceModel, recognise
from maskpool.audit.endpoint.texts import DOCUMENTS, SentTexts
from maskpool.audit.probes import TEXTS
from maskpool.errors import EndpointError
from maskpool.integrations.sentence_transformers import load
from maskpool.leaks import SERVING_FAULTS, ServingFault
from maskpool.tolerances import VECTOR_CHANGE
from tests.audit.servers import LAYERS, Serving, TinyModel, open_model, running, save_reference
from tests.blocks import fenced_blocks
from tests.command import assert_refused, run
from tests.matrix import cut, sampled
from tests.once import once

SEEDS = cut(1, 4)


@dataclass(frozen=True)
class Plant:
    """A server with a fault.

    Attributes:
        title: The finding that it must have.
        serving: What differs from a right server.
        reference: The folder that it is compared with; empty for none.
        twin: What differs in the right server that is most like it.
    """

    title: str
    serving: dict[str, Any]
    reference: str = ""
    twin: dict[str, Any] = field(default_factory=dict)


PLANTS = {
    "mean over pads": Plant(leaks.MEAN_OVER_PADS.title, {"over_pads": True}, "mean"),
    "a leak without a reference": Plant(leaks.UNKNOWN_CAUSE.title, {"over_pads": True}),
    "rows sorted by length": Plant(leaks.ROWS_IN_ANOTHER_ORDER.title, {"bug": "order"}),
    "NaN in padded lists": Plant(leaks.NAN_WHERE_PADDED.title, {"bug": "NaN in lists"}),
    "causal for equal lengths": Plant(leaks.COUPLING.title, {"bug": "equal lengths"}),
    "a cache filled from padded lists": Plant(
        leaks.CACHED_VECTORS.title, {"bug": "cache", "over_pads": True}, twin={"bug": "cache"}
    ),
    "pads of concurrent requests": Plant(
        leaks.CONCURRENT_REQUESTS.title, {"bug": "together over pads"}, twin={"bug": "together"}
    ),
    "swapped concurrent requests": Plant(
        leaks.ROWS_IN_ANOTHER_ORDER.title, {"bug": "together swapped"}, twin={"bug": "together"}
    ),
    "merged": Plant(leaks.DUPLICATES_MERGED.title, {"bug": "merges"}),
    "strings": Plant(leaks.STRING_AND_LIST.title, {"bug": "strings"}),
    "base64 of big-endian": Plant(leaks.BASE64_DIFFERS.title, {"bug": "base64 big-endian"}),
    "base64 of float64": Plant(leaks.BASE64_DIFFERS.title, {"bug": "base64 float64"}),
    "an empty text breaks it": Plant(
        leaks.EMPTY_TEXT_FAILS.title, {"bug": "empty breaks"}, twin={"bug": "empty refused"}
    ),
    "an empty text moves others": Plant(leaks.EMPTY_TEXT_FAILS.title, {"bug": "empty poisons"}),
    "a cache by beginnings": Plant(leaks.SHARED_BEGINNING.title, {"bug": "beginning"}),
    "chunks without normalisation": Plant(
        leaks.LONG_TEXTS_NOT_NORMALISED.title, {"bug": "chunks not normalised"}, twin={"bug": "chunks"}
    ),
    "chunks": Plant(leaks.CHUNKS_AVERAGED.title, {"bug": "chunks"}, "mean"),
    "weighted chunks": Plant(leaks.CHUNKS_AVERAGED.title, {"bug": "chunks weighted"}, "mean"),
    "a short maximum": Plant(leaks.OTHER_LENGTH.title, {"limit": 20}, "mean"),
    "a maximum of one token less": Plant(leaks.OTHER_LENGTH.title, {"limit": 47}, "mean"),
    "a long maximum": Plant(leaks.OTHER_LENGTH.title, {"limit": 300}, "mean", twin={"bug": "refuses long"}),
    "no maximum": Plant(leaks.OTHER_LENGTH.title, {"limit": 1400}, "mean"),
    "cls": Plant(leaks.OTHER_POOLING.title, {"pooling": "cls"}, "mean"),
    "last token": Plant(leaks.OTHER_POOLING.title, {"pooling": "lasttoken"}, "mean"),
    "max": Plant(leaks.OTHER_POOLING.title, {"pooling": "max"}, "mean"),
    "weighted mean": Plant(leaks.OTHER_POOLING.title, {"pooling": "weightedmean"}, "mean"),
    "mean for cls": Plant(leaks.OTHER_POOLING.title, {}, "cls", twin={"pooling": "cls"}),
    "pads up to the maximum": Plant(leaks.OTHER_POOLING.title, {"over_pads": True, "fixed_width": True}, "mean"),
    "divided by the root": Plant(
        leaks.OTHER_POOLING.title, {"pooling": "mean_sqrt", "normalize": False}, "raw", twin={"normalize": False}
    ),
    "mean for divided by the root": Plant(
        leaks.OTHER_POOLING.title, {"normalize": False}, "root", twin={"pooling": "mean_sqrt", "normalize": False}
    ),
    "not normalised": Plant(leaks.OTHER_NORMALISATION.title, {"normalize": False}, "mean"),
    "normalised": Plant(leaks.OTHER_NORMALISATION.title, {}, "raw", twin={"normalize": False}),
    "an earlier layer": Plant(leaks.OTHER_LAYER.title, {"layer": LAYERS - 1}, "mean"),
    "a prompt": Plant(leaks.OTHER_PROMPT.title, {"prompt": "query: "}, "mean"),
    "lower case": Plant(leaks.LOWER_CASED.title, {"lower": True}, "mean"),
    "special tokens not added": Plant(leaks.OTHER_SPECIAL_TOKENS.title, {"special": False}, "mean"),
    "float16": Plant(leaks.ROUNDED_NUMBERS.title, {"bug": "float16"}, "mean"),
    "bfloat16": Plant(leaks.ROUNDED_NUMBERS.title, {"bug": "bfloat16"}, "mean"),
    "int8": Plant(leaks.ROUNDED_NUMBERS.title, {"bug": "int8"}, "mean"),
    "integers": Plant(leaks.ROUNDED_NUMBERS.title, {"bug": "int8 numbers"}, "mean"),
    "noise": Plant(leaks.NON_DETERMINISM.title, {"bug": "noise"}),
    "a pooling that is not known": Plant(leaks.OTHER_VECTORS.title, {"pooling": "smallest"}, "mean"),
}
ROUTES = ("/v1/embeddings", "/embed", "/api/embed", "/v2/embed")
SAVED = {"mean": ("mean", True), "raw": ("mean", False), "root": ("mean_sqrt_len", False), "cls": ("cls", True)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Path]:
    """Return a function that saves a reference of a kind and a seed once."""

    def get(kind: str, seed: int = 0) -> Path:
        pooling, normalize = SAVED[kind]
        return once(
            tmp_path_factory,
            f"endpoint-{kind}-{seed}",
            lambda folder: save_reference(folder, pooling, normalize, seed),
        )

    return get


Folders = Callable[..., Path]


def audit(
    folders: Folders, serving: dict[str, Any], reference: str, seed: int = 0, route: str = ROUTES[0]
) -> EndpointReport:
    model = open_model(folders("mean", seed))
    with running(Serving(model, **serving)) as server:
        return audit_endpoint(
            server.url + route, "tiny", str(folders(reference, seed)) if reference else None, timeout=120
        )


@pytest.mark.parametrize("name", sampled(PLANTS, every=14))
def test_planted_faults_are_named(name: str, folders: Folders) -> None:
    """A server with a fault has this finding and no other; it is not clean unless the fault may be intended."""
    plant = PLANTS[name]
    report = audit(folders, plant.serving, plant.reference)
    assert [finding.cause for finding in report.findings] == [plant.title], report
    intended = plant.title == leaks.ROUNDED_NUMBERS.title
    uncertain = plant.title == leaks.NON_DETERMINISM.title
    assert report.verdict == ("clean" if intended else "unknown" if uncertain else "faults")


TWINS = {
    f"{name}, seed {seed}": (plant, seed, ROUTES[place % len(ROUTES)])
    for place, (name, plant) in enumerate(PLANTS.items())
    for seed in range(2)
}


@pytest.mark.parametrize("name", sampled(TWINS, every=42))
def test_right_servers_are_clean(name: str, folders: Folders) -> None:
    """The right server that is most like one with a fault has no finding, on every kind of route."""
    plant, seed, route = TWINS[name]
    report = audit(folders, plant.twin, plant.reference, seed, route)
    assert (report.verdict, report.findings) == ("clean", ()), report


def test_more_than_fifty_servers_are_clean() -> None:
    """The full suite audits at least fifty right servers, and fourteen kinds of faults."""
    assert len(TWINS) >= 50
    assert len({plant.title for plant in PLANTS.values()}) >= 14


def test_every_fault_is_planted() -> None:
    """Each fault of the catalogue is planted."""
    assert {plant.title for plant in PLANTS.values()} >= set(SERVING_FAULTS)


def test_lists_that_are_too_long_are_halved(folders: Folders) -> None:
    """A server that refuses long lists is audited in shorter ones, which the report notes."""
    report = audit(folders, {"bug": "short lists"}, "")
    assert report.verdict == "clean"
    assert any("parts of at most" in note for note in report.notes)


# ------------------------------------------------------------------------------------------------ recognition


def vectors_of(serving: Serving, texts: tuple[str, ...]) -> torch.Tensor:
    return torch.cat([serving.embed([text]) for text in texts]).double()


KNOWN: dict[str, tuple[dict[str, Any], Recipe]] = {
    "mean": ({}, Recipe("mean", LAYERS)),
    "cls": ({"pooling": "cls"}, Recipe("cls", LAYERS)),
    "lasttoken": ({"pooling": "lasttoken"}, Recipe("lasttoken", LAYERS)),
    "max": ({"pooling": "max"}, Recipe("max", LAYERS)),
    "weightedmean": ({"pooling": "weightedmean"}, Recipe("weightedmean", LAYERS)),
    "mean_sqrt": ({"pooling": "mean_sqrt"}, Recipe("mean", LAYERS)),
    "pads": ({"over_pads": True, "fixed_width": True}, Recipe("mean", LAYERS, pads=True)),
    "layer": ({"layer": 1}, Recipe("mean", 1, last=False)),
    "cls of a layer": ({"layer": 2, "pooling": "cls"}, Recipe("cls", 2, last=False)),
    "prompt": ({"prompt": "passage: "}, Recipe("mean", LAYERS, prompt="passage: ")),
    "lower": ({"lower": True}, Recipe("mean", LAYERS, lower=True)),
    "special": ({"special": False}, Recipe("mean", LAYERS, special="not added")),
}
UNKNOWN: dict[str, dict[str, Any]] = {
    **{name: {"pooling": name} for name in ("smallest", "third token", "mean and max", "cube", "squared weights")},
    "another prompt": {"prompt": "topic: "},
    "a prompt and an earlier layer of lower case": {"prompt": "query: ", "lower": True, "layer": 2},
}


@pytest.fixture(scope="module", params=range(SEEDS))
def compared(request: pytest.FixtureRequest, folders: Folders) -> tuple[TinyModel, list[tuple[Recipe, torch.Tensor]]]:
    """Return a model and the vectors of all recipes of its reference."""
    folder = folders("mean", request.param)
    return open_model(folder), list(ReferenceModel(str(folder)).candidates(DOCUMENTS[:8]))


Compared = tuple[TinyModel, list[tuple[Recipe, torch.Tensor]]]


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("normalize", [True, False])
def test_recipes_are_recognised(compared: Compared, name: str, normalize: bool) -> None:
    """Each recipe is recognised from its vectors, by itself."""
    model, candidates = compared
    given, recipe = KNOWN[name]
    rows = vectors_of(Serving(model, **given, normalize=normalize), DOCUMENTS[:8])
    assert recognise(rows, candidates, VECTOR_CHANGE).recipes == (recipe,)


@pytest.mark.parametrize(
    ("name", "noise"), sampled(itertools.product([*KNOWN, *UNKNOWN], [0.0, 1e-3, 1e-2, 5e-2, 0.3]), every=3)
)
def test_no_recipe_has_a_wrong_name(compared: Compared, name: str, noise: float) -> None:
    """Vectors with noise are recognised as what they are or not at all; those of no recipe are never recognised."""
    model, candidates = compared
    given, recipe = KNOWN.get(name, (UNKNOWN.get(name, {}), None))
    torch.manual_seed(0)
    rows = vectors_of(Serving(model, **given), DOCUMENTS[:8])
    rows = rows + noise * F.normalize(torch.randn_like(rows), dim=1)
    recipes = recognise(rows, candidates, VECTOR_CHANGE).recipes
    assert recipes in ((), *([(recipe,)] if recipe is not None else []))


def test_another_model_is_not_recognised(compared: Compared, folders: Folders) -> None:
    """The vectors of a model with other weights are of no recipe."""
    _, candidates = compared
    rows = vectors_of(Serving(open_model(folders("mean", 99))), DOCUMENTS[:8])
    assert recognise(rows, candidates, VECTOR_CHANGE).recipes == ()


def test_a_server_of_another_dimension_is_refused(folders: Folders) -> None:
    """A reference of another dimension is another model, which is an error."""
    with raw(lambda body, n: [[0.1 * len(text), 1.0, float(len(text) ** 2)] for text in body["inputs"]]) as url:
        assert_refused(
            run("audit", "--endpoint", url + "/embed", "--reference", folders("mean")),
            r"--endpoint must give vectors of 32 numbers, as the reference .* does, got 3: they are different models",
        )


# ------------------------------------------------------------------------------------------------ bad answers


@contextmanager
def raw(answer: Callable[[Any, int], Any]) -> Iterator[str]:
    """Run a server whose answer is a function of the request and its number.

    A tuple is (status, headers, content); bytes are sent as they are; other values as JSON; None closes the connection.
    """
    number = iter(range(10**6))

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            content = answer(body, next(number))
            if content is None:
                return
            status, headers, content = content if isinstance(content, tuple) else (200, {}, content)
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if headers.get("drip"):
                    while True:
                        self.wfile.write(b" ")
                        time.sleep(0.05)
                self.wfile.write(data)
            except OSError:  # the client has left
                pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def rows(body: Any) -> list[list[float]]:
    return [[float(len(text)), 1.0, float(sum(map(ord, text)) % 97)] for text in body["inputs"]]


def sleep(body: Any, _: int) -> Any:
    time.sleep(3)
    return rows(body)


BAD: dict[str, tuple[Callable[[Any, int], Any], str]] = {
    "401": (lambda b, n: (401, {}, {"error": "no key"}), r".*HTTP status 401 with .*no key.*: set the key .*"),
    "404": (lambda b, n: (404, {}, {"error": "no model"}), ".*HTTP status 404 with .*: check the path of the URL, .*"),
    "429": (lambda b, n: (429, {}, "busy"), ".*HTTP status 429.*"),
    "429 for an hour": (lambda b, n: (429, {"retry-after": "3600"}, ""), ".*within 60 s, it asks to wait 3600 s"),
    "500": (lambda b, n: (500, {}, "broken"), ".*HTTP status 500.*"),
    "a redirection": (lambda b, n: (302, {"location": "/other"}, ""), ".*HTTP status 302.*"),
    "HTML": (lambda b, n: b"<html>hello</html>", "--endpoint must answer with JSON, got '<html>hello</html>'"),
    "nothing": (lambda b, n: b"", "--endpoint must answer with JSON, got nothing"),
    "another object": (lambda b, n: {"hello": 1}, "--endpoint must answer with one vector for each text, got dict .*"),
    "numbers without a float": (
        lambda b, n: [[10**400, 1, 2] for _ in b["inputs"]], ".*must answer with numbers, got an integer that no .*"
    ),
    "fewer vectors": (lambda b, n: rows(b)[1:], ".*one vector for each text, got 0 vectors for 1 texts"),
    "fewer in lists": (
        lambda b, n: rows(b)[: max(1, len(b["inputs"]) - 1)], ".*one vector for each text, got 2 vectors for 3 texts"
    ),
    "NaN": (lambda b, n: [[float("nan")] * 3 for _ in b["inputs"]], "--endpoint must give finite numbers; .*"),
    "null": (lambda b, n: [[None] * 3 for _ in b["inputs"]], "--endpoint must give finite numbers; .*"),
    "strings": (lambda b, n: [["a", "b"] for _ in b["inputs"]], ".*must answer with numbers, got .*"),
    "numbers": (lambda b, n: [1.0 for _ in b["inputs"]], ".*must answer with lists of numbers, got something else"),
    "another dimension": (
        lambda b, n: [row[: 3 - n % 2] for row in rows(b)], r".*vectors of one dimension, got \[2, 3\]"
    ),
    "late": (sleep, "--endpoint must answer within 0.5 s, it did not"),
    "drips": (lambda b, n: (200, {"drip": "1"}, b""), "--endpoint must answer within 0.5 s, it did not"),
    "a closed connection": (lambda b, n: None, "--endpoint must answer, the connection broke: .*"),
    "too much": (lambda b, n: b" " * (1 << 16), ".*at most 0 MiB, got more"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_answers_are_refused_in_one_sentence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is not one ends with one sentence and exit code 2, soon."""
    monkeypatch.setattr("maskpool.audit.endpoint.clients.BACKOFF", 0.01)
    if name == "too much":
        monkeypatch.setattr("maskpool.audit.endpoint.clients.MAX_BYTES", 1 << 15)
    answer, sentence = BAD[name]
    with raw(answer) as url:
        start = time.monotonic()
        timeout = "0.5" if name in ("late", "drips") else "60"
        assert_refused(run("audit", "--endpoint", url + "/embed", "--timeout", timeout), sentence)
        assert time.monotonic() - start < 60


def test_an_answer_that_drips_is_cut_off() -> None:
    """The time limit is of the whole request: single bytes that keep coming do not extend it."""
    with raw(BAD["drips"][0]) as url, EndpointClient(url + "/embed", timeout=0.5) as client:
        start = time.monotonic()
        with pytest.raises(EndpointError, match=r"within 0\.5 s"):
            client(["a"])
        assert time.monotonic() - start < 7


@pytest.mark.parametrize("data", [["x"], [1, 2], {"a": 1}, None, [{"index": [1], "embedding": [1.0]}]])
def test_entries_that_are_no_objects_are_refused(data: Any) -> None:
    """An answer whose entries are something other than objects with a vector is refused in one sentence."""
    with raw(lambda body, n: {"data": data}) as url:
        ran = run("audit", "--endpoint", url + "/v1/embeddings")
    assert_refused(ran, "--endpoint must answer as OpenAI does, got .*")


@pytest.mark.parametrize(("indices", "order"), [((2, 0, 1), [1.0, 2.0, 0.0]), ((0, 0, 1), None), ((1, 2, 3), None)])
def test_vectors_are_placed_by_their_index(indices: tuple[int, ...], order: list[float] | None) -> None:
    """Vectors that come in another order are placed by their index; indices that do not fit are refused."""
    data = {"data": [{"index": index, "embedding": [float(n), 1.0]} for n, index in enumerate(indices)]}
    with raw(lambda body, n: data) as url, EndpointClient(url + "/v1/embeddings") as client:
        if order is None:
            with pytest.raises(EndpointError, match=r"must answer as OpenAI does, .*the indices of its 3 vectors"):
                client(["a", "b", "c"])
        else:
            assert client(["a", "b", "c"])[:, 0].tolist() == order


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("nonsense", "--endpoint must be a URL that begins with http:// or https://, got 'nonsense'"),
        ("ftp://x/embed", "--endpoint must be a URL that begins with .*"),
        ("http://[::1/embed", "--endpoint must be a URL, got .*"),
        ("http://127.0.0.1:1/nothing", "--endpoint must end with the path that embeds texts, one of /embeddings .*"),
        ("http://me:secret@127.0.0.1:1/embed", "--endpoint must not hold a password: .*"),
        ("http://127.0.0.1:1/embed", "--endpoint must be a server that can be reached, .*"),
        ("http://127.0.0.1:99999/embed", "--endpoint must have a port from 1 to 65535, got 99999"),
    ],
)
def test_a_url_that_is_none_is_refused(url: str, sentence: str) -> None:
    """An address that cannot be used is refused in one sentence, which does not repeat a password."""
    ran = run("audit", "--endpoint", url)
    assert_refused(ran, sentence)
    assert "secret" not in ran.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["folder", "--endpoint", "http://x/embed"], "NAME_OR_PATH cannot be used with --endpoint: .*"),
        (["--endpoint", "http://x/embed", "--pooling", "cls"], "--pooling cannot be used with --endpoint: .*"),
        (["--endpoint", "http://x/embed", "--timeout", "0"], "--timeout must be a positive number of seconds, got 0.0"),
        (["--endpoint", "http://x/embed", "--reference", "none"], "--reference must be .*"),
        (["folder", "--model", "name"], "--model, --reference and --dry-run need --endpoint"),
        ([], "NAME_OR_PATH or --endpoint is missing: name a model or a server"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else "",
)
def test_options_that_exclude_each_other_are_refused(arguments: list[str], sentence: str) -> None:
    """Options that do not go together are refused."""
    assert_refused(run("audit", *arguments), sentence)


# ------------------------------------------------------------------------------------------------ what is sent


def test_a_busy_server_is_asked_again(folders: Folders) -> None:
    """Requests are sent again after the time that a server asks for, and the retries are counted."""
    model = open_model(folders("mean"))
    serving = Serving(model)

    def answer(body: Any, number: int) -> Any:
        status = {0: 429, 1: 503, 2: 500}.get(number)
        if status is not None:
            return status, {"retry-after": "0"}, "busy"
        return serving.embed(body["inputs"]).tolist()

    with raw(answer) as url, EndpointClient(url + "/embed") as client:
        assert client([TEXTS[0]]).shape == (1, client.dimension)
        assert (client.requests, client.retries) == (4, 3)


@pytest.mark.parametrize("value", ["2", "Wed, 01 Jan 2020 00:00:00 GMT", "soon", "inf", "-1"])
def test_the_time_to_wait_is_read(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that a server asks for may be seconds or a date; anything else is the usual time."""
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("anyio.sleep", wait)
    busy = raw(lambda body, n: (429, {"retry-after": value}, "") if n == 0 else rows(body))
    with busy as url, EndpointClient(url + "/embed") as client:
        client(["a"])
    assert waits == [{"2": 2.0, "soon": 0.5, "inf": 0.5}.get(value, 0.0)]


def test_the_key_is_sent_and_never_shown(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of the environment is sent as a bearer token; errors and reports do not repeat it."""
    monkeypatch.setenv("MASKPOOL_API_KEY", "s3cret-key")
    with running(Serving(open_model(folders("mean")))) as server:
        ran = run("audit", "--endpoint", server.url + "/v1/embeddings", "--json")
        assert set(server.authorization) == {"Bearer s3cret-key"}
    assert ran.code == 0
    assert json.loads(ran.out)["verdict"] == "clean"
    with raw(lambda body, n: (401, {}, {"error": "wrong key s3cret-key"})) as url:
        refused = run("audit", "--endpoint", url + "/embed")
    assert refused.code == 2
    assert "wrong key …" in refused.err
    assert "s3cret" not in ran.out + ran.err + refused.err


@pytest.mark.parametrize("key", ["s3cret\n", "s3crét", "s3cret\x1b[2J"])
def test_a_key_that_no_header_holds_is_refused_unseen(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key with a line break or other letters than ASCII is refused by the name of its variable, and not repeated."""
    monkeypatch.setenv("MASKPOOL_API_KEY", key)
    with raw(lambda body, n: rows(body)) as url:
        ran = run("audit", "--endpoint", url + "/embed")
    assert_refused(ran, "the environment variable MASKPOOL_API_KEY must hold printable letters of ASCII only, .*")
    assert "s3cr" not in ran.err


def test_a_dry_run_lists_every_text_and_sends_nothing(folders: Folders, tmp_path: Path) -> None:
    """A dry run prints the texts that a run sends, the user's included, and sends none."""
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"My own text number {number} " + "and more " * number for number in range(1, 5)))
    with running(Serving(open_model(folders("mean")))) as server:
        command = ["audit", "--endpoint", server.url + "/embed", "--texts", texts, "--reference", folders("mean")]
        dry = run(*command, "--dry-run")
        assert (dry.code, server.requests) == (0, 0)
        ran = run(*command, "--json")
        sent = set(server.sent)
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["requests"] == server.requests <= 500
    plan = SentTexts(documents=(), compare=True)
    printed = {line for line in dry.out.splitlines() if line.startswith(("'", '"'))}
    assert {text for text in sent if repr(text) not in printed and not plan.may_send(text)} == set()
    assert sum("My own text" in text for text in sent) > 8


def test_a_text_that_was_not_announced_is_never_sent() -> None:
    """The client refuses to send a text that is not on the list."""
    announced = SentTexts().may_send
    with raw(lambda body, n: rows(body)) as url, EndpointClient(url + "/embed", may_send=announced) as client:
        client([TEXTS[0]])
        with pytest.raises(AssertionError, match="not announced"):
            client(["mine"])


def test_requests_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client stops at the largest number of requests."""
    monkeypatch.setattr("maskpool.audit.endpoint.clients.MAX_REQUESTS", 2)
    with raw(lambda body, n: rows(body)) as url, EndpointClient(url + "/embed") as client:
        client(["a"])
        client(["a"])
        with pytest.raises(EndpointError, match="limit"):
            client(["a"])


# ------------------------------------------------------------------------------------------------ the report


def test_the_report_of_a_fault_says_what_to_do(folders: Folders) -> None:
    """The words and the JSON of a report have the fault, its evidence with cosine and recall, and the fix."""
    with running(Serving(open_model(folders("mean")), pooling="cls")) as server:
        command = ["audit", "--endpoint", server.url + "/v1/embeddings", "--reference", folders("mean")]
        ran, as_json = run(*command), run(*command, "--json")
    assert (ran.code, as_json.code) == (1, 1)
    assert f"FAULT: {leaks.OTHER_POOLING.title}" in ran.out
    assert leaks.OTHER_POOLING.fix in ran.out
    report = json.loads(as_json.out)
    (finding,) = report["findings"]
    assert finding["kind"] == "FAULT"
    assert all(word in finding["evidence"] for word in ("cls", "saved with: mean", "cosine", "recall@1"))
    assert report["facts"]["pooling"] == "cls"
    assert report["facts"]["long texts"].startswith("cut: words behind the first 46")


def test_the_page_has_a_section_for_every_fault() -> None:
    """Each fault of the catalogue has a section of the page that its link leads to, with its fix."""
    page = (Path(__file__).parents[2] / leaks.SERVING_PAGE).read_text("utf-8")
    for fault in SERVING_FAULTS.values():
        assert isinstance(fault, ServingFault)
        heading = f"### {fault.title[0].upper()}{fault.title[1:]}\n"
        assert heading in page
        section = " ".join(page.split(heading)[1].partition("\n#")[0].split())
        assert fault.fix in section.replace("`", "")
        assert all(thread in section for thread in fault.threads)


@pytest.mark.full  # runs sentence-transformers behind a server; the page's own code runs in tests/test_docs.py
def test_the_commands_of_the_page_run_on_a_real_model() -> None:
    """The commands of the page call a server of the bundled model, run by sentence-transformers, clean."""
    model = load("all-MiniLM-L6-v2")
    page = (Path(__file__).parents[2] / leaks.SERVING_PAGE).read_text("utf-8")
    (block,) = (block.text for block in fenced_blocks(page) if block.language == "bash")

    def answer(body: Any, _: int) -> Any:
        vectors = model.encode([body["input"]] if isinstance(body["input"], str) else body["input"]).tolist()
        return {"data": [{"index": place, "embedding": vector} for place, vector in enumerate(vectors)]}

    commands = block.splitlines()
    assert len(commands) == 2
    with raw(answer) as url:
        for command in commands:
            name, *arguments = command.replace("http://localhost:8000", url).split()
            ran = run(*arguments, "--json")
            assert name == "maskpool"
            assert ran.code == 0, ran.out + ran.err
    facts = json.loads(ran.out)["facts"]
    assert facts["pooling"] == "mean, as the reference"
    assert facts["long texts"].startswith("cut: words behind the first 254 ")


def test_describe_requests_is_the_dry_run() -> None:
    """The list of texts can be read from Python."""
    assert repr(TEXTS[0]) in describe_requests()
    assert DOCUMENTS[5] not in describe_requests()
    assert DOCUMENTS[5] in describe_requests(compared=True)
