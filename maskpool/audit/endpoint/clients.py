"""Send texts to a server over HTTP and read its vectors, within limits of time, size and number of requests."""

from __future__ import annotations

import base64
import json
import math
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Annotated, Any

import anyio
import httpx2
import numpy as np
import torch
from anyio.from_thread import BlockingPortal, start_blocking_portal
from torch import Tensor

from maskpool.errors import EndpointError, InvalidValueError

MAX_REQUESTS = 500
MAX_BYTES = 64 << 20  # of one answer
TRIES = 4
# Seconds before the first retry; each further one waits twice as long.
BACKOFF = 0.5
# Statuses of servers that are busy or starting, and of those that refuse a request as too large.
_BROKEN = 0  # in place of a status, if the connection broke
_PASSING = (_BROKEN, 429, 500, 502, 503, 504)
TOO_LARGE = (400, 413, 422)
_QUOTED = 160  # letters of an answer that an error quotes


@dataclass(frozen=True)
class WireFormat:
    """How one kind of server spells requests and answers.

    Attributes:
        name: The name of the kind.
        ending: What the path of its URL ends with.
        body: Makes the request from the texts and the name of the model.
        rows: Takes the vectors from an answer.
        base64: Whether vectors can be asked for in base64.
    """

    name: str
    ending: str
    body: Callable[[Any, str | None], dict[str, Any]]
    rows: Callable[[Any], Any]
    base64: bool = False


def _of_openai(answer: Any) -> Any:
    entries = {entry.get("index", place): entry["embedding"] for place, entry in enumerate(answer["data"])}
    if sorted(entries) != list(range(len(answer["data"]))):
        raise EndpointError(f"the indices of its {len(answer['data'])} vectors are {sorted(entries)}")
    return [entries[place] for place in range(len(entries))]


def _of_cohere(answer: Any) -> Any:
    vectors = answer["embeddings"]
    return vectors["float"] if isinstance(vectors, dict) else vectors


def _named(model: str | None) -> dict[str, str]:
    return {} if model is None else {"model": model}


_COHERE: Callable[[Any, str | None], dict[str, Any]] = lambda texts, model: {  # noqa: E731  # a row of the table below
    "texts": texts, "input_type": "search_document", "embedding_types": ["float"], **_named(model)
}  # fmt: skip
# The first whose ending fits is used.
FORMATS = (
    WireFormat("OpenAI", "/embeddings", lambda texts, model: {"input": texts, **_named(model)}, _of_openai, True),
    WireFormat(
        "Ollama", "/api/embed", lambda texts, model: {"input": texts, **_named(model)}, lambda a: a["embeddings"]
    ),
    WireFormat("Cohere", "/v1/embed", _COHERE, _of_cohere),
    WireFormat("Cohere", "/v2/embed", _COHERE, _of_cohere),
    WireFormat("text-embeddings-inference", "/embed", lambda texts, _: {"inputs": texts}, lambda answer: answer),
)


def find_format(url: str) -> WireFormat:
    """Return how the server at an address is spoken to.

    Raises:
        InvalidValueError: ``url`` is not an address of a kind that is known.
    """
    try:
        parts = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError, TypeError) as error:
        raise InvalidValueError("url", f"must be a URL, got {url!r}: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.host:
        raise InvalidValueError("url", f"must be a URL that begins with http:// or https://, got {url!r}")
    if parts.port is not None and not 0 < parts.port < 1 << 16:
        raise InvalidValueError("url", f"must have a port from 1 to 65535, got {parts.port}")
    if parts.userinfo:
        raise InvalidValueError("url", "must not hold a password: set the key in the environment")
    path = parts.path.rstrip("/")
    for form in FORMATS:
        if path.endswith(form.ending):
            return form
    endings = ", ".join(f"{form.ending} ({form.name})" for form in FORMATS)
    raise InvalidValueError("url", f"must end with the path that embeds texts, one of {endings}; got {url!r}")


@dataclass
class EndpointClient:
    """Embed texts by a server; a context manager.

    Args:
        url: The address, whose path says how the server is spoken to.
        model: The name of the model, for servers with several.
        key: The key that is sent as a bearer token, in printable ASCII; None sends none.
        timeout: Seconds that a request may take. The whole audit may take 20 times as long, at least ten minutes.
        may_send: Whether a text may be sent. Nothing else leaves this process.
        on_call: Called after each request with the number of requests so far.
    """

    url: str
    model: str | None = None
    key: str | None = field(default=None, repr=False)
    timeout: float = 60.0
    may_send: Callable[[str], bool] = lambda text: True
    on_call: Callable[[int], None] | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.timeout) and self.timeout > 0):
            raise InvalidValueError("timeout", f"must be a positive number of seconds, got {self.timeout}")
        # A header holds nothing else, and the errors of a refused header would quote the key.
        if self.key is not None and not (self.key.isascii() and self.key.isprintable()):
            raise InvalidValueError("key", "must hold printable letters of ASCII only, and no line break")
        self.form = find_format(self.url)
        self.requests = 0
        self.retries = 0
        self.dimension: int | None = None
        self.most_texts: int | None = None  # of one request, once the server has refused a longer list

    def __enter__(self) -> EndpointClient:
        """Open the connection."""
        self._deadline = time.monotonic() + max(600.0, 20 * self.timeout)
        self._portal_context = start_blocking_portal()
        self._portal: BlockingPortal = self._portal_context.__enter__()
        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        self._http = httpx2.AsyncClient(timeout=self.timeout, headers=headers, verify=_certificates())
        return self

    def __exit__(self, *error: Any) -> None:
        """Close the connection."""
        try:
            self._portal.call(self._http.aclose)
        finally:
            self._portal_context.__exit__(*error)

    def __call__(self, texts: Sequence[str]) -> Annotated[Tensor, "texts dim"]:
        """Embed texts in one request; a list that the server refuses as too long is halved.

        Raises:
            EndpointError: The server cannot be reached, refuses, or answers with something else than vectors.
        """
        texts = list(texts)
        if self.most_texts is not None and len(texts) > self.most_texts:
            return torch.cat([self(part) for part in _halves(texts)])
        try:
            return self.rows_of(self.answer(texts), len(texts))
        except EndpointError as error:
            if error.status not in TOO_LARGE or len(texts) == 1:
                raise
            self.most_texts = len(_halves(texts)[0])
            return torch.cat([self(part) for part in _halves(texts)])

    def together(self, texts: Sequence[str]) -> Annotated[Tensor, "texts dim"]:
        """Embed each text in a request of one text, all at the same time.

        Raises:
            EndpointError: As a call.
        """

        async def send() -> list[Any]:
            answers: list[Any] = [None] * len(texts)

            async def one_text(place: int, text: str) -> None:
                answers[place] = await self._send([text], {}, TRIES)

            async with anyio.create_task_group() as group:
                for place, text in enumerate(texts):
                    group.start_soon(one_text, place, text)
            return answers

        with _first_of_group():
            answers = self._portal.call(send)
        return torch.cat([self.rows_of(self._read(answer), 1) for answer in answers])

    def answer(self, texts: Sequence[str] | str, more: dict[str, Any] | None = None, tries: int = TRIES) -> Any:
        """Return the vectors of an answer as they came.

        Args:
            texts: The texts, or one as a string.
            more: Further fields of the request.
            tries: The number of tries if the server is busy or fails.

        Raises:
            EndpointError: As a call.
        """
        return self._read(self._portal.call(self._send, texts, more or {}, tries))

    def rows_of(self, rows: Any, texts: int) -> Annotated[Tensor, "texts dim"]:
        """Check that there is one vector for each text.

        Raises:
            EndpointError: There is not, or vectors hold something else than numbers, or have another dimension than
                before.
        """
        if not isinstance(rows, list) or len(rows) != texts:
            what = f"{len(rows)} vectors" if isinstance(rows, list) else type(rows).__name__
            raise self._wrong(f"must answer with one vector for each text, got {what} for {texts} texts")
        if not all(isinstance(row, list) and row for row in rows):
            raise self._wrong("must answer with lists of numbers, got something else")
        # JSON does not know NaN: some servers write null.
        if not all(
            value is None or (isinstance(value, int | float) and not isinstance(value, bool))
            for row in rows
            for value in row
        ):
            raise self._wrong("must answer with numbers, got vectors of something else")
        dimensions = {len(row) for row in rows} | ({self.dimension} if self.dimension is not None else set())
        if len(dimensions) != 1:
            raise self._wrong(f"must answer with vectors of one dimension, got {sorted(dimensions)}")
        self.dimension = dimensions.pop()
        try:
            return torch.tensor(
                [[math.nan if value is None else value for value in row] for row in rows], dtype=torch.float64
            )
        except OverflowError:
            raise self._wrong("must answer with numbers, got an integer that no float holds") from None

    def _wrong(self, problem: str, status: int | None = None) -> EndpointError:
        return EndpointError(problem, argument="url", status=status)

    def _read(self, content: bytes) -> Any:
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            raise self._wrong(f"must answer with JSON, got {self._quoted(content)}") from None
        try:
            return self.form.rows(answer)
        except (AttributeError, KeyError, TypeError, IndexError, EndpointError) as error:
            reason = f" ({error})" if isinstance(error, EndpointError) else ""
            raise self._wrong(f"must answer as {self.form.name} does, got {self._quoted(content)}{reason}") from None

    def _quoted(self, content: bytes) -> str:
        text = " ".join(content[: 4 * _QUOTED].decode("utf-8", "replace").split())
        if self.key:
            text = text.replace(self.key, "…")
        return repr(text[:_QUOTED] + ("…" if len(text) > _QUOTED else "")) if text else "nothing"

    async def _send(self, texts: Sequence[str] | str, more: dict[str, Any], tries: int) -> bytes:
        for text in [texts] if isinstance(texts, str) else texts:
            if not self.may_send(text):
                raise AssertionError(f"a text that was not announced: {text!r}")
        body = {**self.form.body(texts if isinstance(texts, str) else list(texts), self.model), **more}
        for attempt in range(1, tries + 1):
            status, wait, content = await self._post(body)
            if status not in _PASSING or attempt == tries:
                break
            wait = BACKOFF * 2 ** (attempt - 1) if wait is None else wait
            if wait > self.timeout:
                raise self._wrong(f"must answer within {self.timeout:g} s, it asks to wait {wait:g} s", status)
            self.retries += 1
            await anyio.sleep(wait)
        if status == _BROKEN:
            raise self._wrong(f"must answer, the connection broke: {content.decode()}", status)
        if not 200 <= status < 300:
            answered = f"HTTP status {status} with {self._quoted(content)}{_ADVICE.get(status, '')}"
            raise self._wrong(f"must answer with vectors, got {answered}", status)
        return content

    async def _post(self, body: dict[str, Any]) -> tuple[int, float | None, bytes]:
        """Return the status, the seconds to wait before another try, and the content of an answer."""
        if self.requests >= MAX_REQUESTS:
            raise self._wrong(f"was sent {MAX_REQUESTS} requests, which is the limit")
        if time.monotonic() > self._deadline:
            raise self._wrong("must answer faster: the time for the whole audit is over; pass fewer texts")
        self.requests += 1
        content = bytearray()
        try:
            # Limits the whole request: httpx limits the time between two bytes.
            with anyio.fail_after(self.timeout):
                async with self._http.stream("POST", self.url, json=body) as answer:
                    async for chunk in answer.aiter_bytes():
                        content += chunk
                        if len(content) > MAX_BYTES:
                            raise self._wrong(f"must answer with at most {MAX_BYTES >> 20} MiB, got more")
        except (TimeoutError, httpx2.TimeoutException):
            raise self._wrong(f"must answer within {self.timeout:g} s, it did not") from None
        except (httpx2.ConnectError, OSError) as error:
            raise self._wrong(f"must be a server that can be reached, got {self.url!r}: {error}") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
            return _BROKEN, None, f"{type(error).__name__}: {error}".encode()
        if self.on_call is not None:
            self.on_call(self.requests)
        return answer.status_code, _retry_after(answer.headers.get("retry-after")), bytes(content)


_ADVICE = {
    401: ": set the key that it accepts in the environment variable MASKPOOL_API_KEY",
    403: ": set a key that is allowed to embed in the environment variable MASKPOOL_API_KEY",
    404: ": check the path of the URL, and the name of the model",
}


@cache
def _certificates() -> ssl.SSLContext:
    """Load the certificates of authorities once per process: it takes a tenth of a second."""
    return httpx2.create_ssl_context()


def _halves(texts: list[str]) -> tuple[list[str], list[str]]:
    middle = (len(texts) + 1) // 2
    return texts[:middle], texts[middle:]


def _retry_after(value: str | None) -> float | None:
    """Return the seconds that a server asks to wait for, given as a number or a date."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


@contextmanager
def _first_of_group() -> Iterator[None]:
    """Raise the first error of tasks that ran together instead of their group."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


def decoded(text: Any) -> Annotated[Tensor, "dim"] | None:
    """Return the vector that base64 of little-endian float32 holds; None if it is something else."""
    try:
        return torch.tensor(np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float64))
    except (ValueError, TypeError):
        return None
