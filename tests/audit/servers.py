"""Servers on this machine around a tiny model, right ones and ones with a planted fault."""

from __future__ import annotations

import base64
import contextlib
import json
import math
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from torch.nn import functional as F
from transformers import BertModel, PreTrainedTokenizerFast

from maskpool.audit.endpoint.texts import DOCUMENTS, EQUAL, TAILS, TOGETHER, pool_words
from maskpool.audit.probes import TEXTS
from tests.bench import tiny

LIMIT = 48  # tokens that the model reads
POSITIONS = 1500
LAYERS, HEADS, WIDTH = 3, 4, 32
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,?:|-ß"


def tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer that keeps capitals: whole words of the audit's texts, else letters."""
    texts = [*TEXTS, *TOGETHER, *EQUAL, *DOCUMENTS, *pool_words("start", 200), *(f"{tail}ern" for tail in TAILS)]
    words = sorted({word for text in texts for word in text.replace(",", "").replace(".", "").split()})
    pieces = dict.fromkeys([*SPECIAL, *words, *_LETTERS, *(f"##{letter}" for letter in _LETTERS)])
    ids = {piece: number for number, piece in enumerate(pieces)}
    made = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        tokenizer_object=made, model_max_length=LIMIT, **names
    )


def save_reference(folder: Path, pooling: str = "mean", normalize: bool = True, seed: int = 0) -> Path:
    """Save a BERT of random weights as a folder of sentence-transformers."""
    words = tokenizer()
    model = tiny.draw_bert(len(words), POSITIONS, LAYERS, spread=0.3, seed=seed)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), *([("2_Normalize", "Normalize")] if normalize else [])]
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": LIMIT, "do_lower_case": False}))
    for path, _ in kinds[1:]:
        (folder / path).mkdir(exist_ok=True)
    flags = {
        f"pooling_mode_{name}": name in (f"{pooling}_tokens", f"{pooling}_token", pooling)
        for name in (
            "cls_token",
            "mean_tokens",
            "max_tokens",
            "mean_sqrt_len_tokens",
            "weightedmean_tokens",
            "lasttoken",
        )
    }
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": WIDTH, **flags}))
    return folder


class TinyModel:
    """A BERT of a folder, written with functions: the audit cannot see it as modules."""

    def __init__(self, folder: Path) -> None:
        model = BertModel.from_pretrained(folder)
        self.weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
        self.words = tokenizer()

    def ids(self, text: str, special: bool = True) -> list[int]:
        ids: list[int] = self.words(text, add_special_tokens=special, verbose=False)["input_ids"]
        return ids

    def states(self, ids: Tensor, mask: Tensor, causal: bool = False) -> list[Tensor]:
        """Return every hidden state, (batch, tokens, width)."""
        w = self.weights

        def norm(x: Tensor, name: str) -> Tensor:
            return F.layer_norm(x, (WIDTH,), w[f"{name}.LayerNorm.weight"], w[f"{name}.LayerNorm.bias"], 1e-12)

        def linear(x: Tensor, name: str) -> Tensor:
            return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

        words, positions, types = (
            w[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")
        )
        x = norm(words[ids] + positions[: ids.shape[1]] + types[0], "embeddings")
        seen = mask[:, None, None, :].bool()
        if causal:
            seen = seen & torch.ones(ids.shape[1], ids.shape[1]).tril().bool()
        states = [x]
        for number in range(LAYERS):
            at = f"encoder.layer.{number}"
            q, k, v = (
                linear(x, f"{at}.attention.self.{part}").view(*x.shape[:2], HEADS, -1).transpose(1, 2)
                for part in ("query", "key", "value")
            )
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).flatten(2)
            x = norm(linear(attended, f"{at}.attention.output.dense") + x, f"{at}.attention.output")
            inner = linear(F.gelu(linear(x, f"{at}.intermediate.dense")), f"{at}.output.dense")
            x = norm(inner + x, f"{at}.output")
            states.append(x)
        return states


@cache
def open_model(folder: Path) -> TinyModel:
    """Open the model of a folder once per process."""
    return TinyModel(folder)


@dataclass
class Serving:
    """What a server does with texts; the default is right.

    Attributes:
        model: The model.
        pooling: ``mean``, ``cls``, ``lasttoken``, ``max``, ``weightedmean``, ``mean_sqrt``, or a name of ``_OTHERS``.
        layer: The hidden state.
        limit: The tokens of a text that are read.
        normalize: Whether vectors get length 1.
        prompt: What is put in front of texts.
        lower: Whether texts are lower-cased.
        special: Whether special tokens are added.
        over_pads: Whether the mean is over the columns of a batch.
        fixed_width: Whether all texts are padded to the limit.
        bug: The name of a fault of `Server.answer` or of `embed`.
    """

    model: TinyModel
    pooling: str = "mean"
    layer: int = -1
    limit: int = LIMIT
    normalize: bool = True
    prompt: str = ""
    lower: bool = False
    special: bool = True
    over_pads: bool = False
    fixed_width: bool = False
    bug: str = ""
    cache: dict[str, Tensor] = field(default_factory=dict)

    def embed(self, texts: Sequence[str], several: bool | None = None) -> Tensor:
        """Return the vectors of one batch."""
        texts = [self.prompt + (text.lower() if self.lower else text) for text in texts]
        ids = [self.model.ids(text, self.special) for text in texts]
        if self.bug.startswith("chunks"):
            rows = torch.stack([self._of_chunks(row) for row in ids])
            return rows if self.bug == "chunks not normalised" else F.normalize(rows, dim=1)
        if self.special:
            ids = [row if len(row) <= self.limit else [*row[: self.limit - 1], row[-1]] for row in ids]
        else:
            ids = [row[: self.limit] for row in ids]
        return self._vectors(ids)

    def _of_chunks(self, ids: list[int]) -> Tensor:
        room = self.limit - 2
        inner = ids[1:-1]
        chunks = [inner[start : start + room] for start in range(0, max(1, len(inner)), room)]
        rows = torch.cat([self._vectors([[ids[0], *chunk, ids[-1]]]) for chunk in chunks])
        weights = torch.tensor([float(max(1, len(chunk))) for chunk in chunks])
        weights = weights / weights.sum() if "weighted" in self.bug else torch.full_like(weights, 1 / len(chunks))
        return (rows * weights.unsqueeze(1)).sum(dim=0)

    def _vectors(self, ids: list[list[int]]) -> Tensor:
        width = self.limit if self.fixed_width else max(1, max(map(len, ids)))
        rows = torch.tensor([row + [0] * (width - len(row)) for row in ids])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids])
        causal = self.bug == "equal lengths" and len(ids) > 1 and len({len(row) for row in ids}) == 1
        states = self.model.states(rows, mask, causal)[self.layer]
        if self.over_pads:
            mask = torch.ones_like(mask)
        vectors = pool(states, mask, self.pooling)
        return F.normalize(vectors, dim=1) if self.normalize else vectors


def pool(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """Pool by a loop over texts."""
    rows = []
    for state, row in zip(states, mask, strict=True):
        real = state[row.bool()]
        n = len(real)
        if not n:
            rows.append(state.new_zeros(state.shape[1]))
            continue
        places = torch.arange(1, n + 1).unsqueeze(1).float()
        match pooling:
            case "mean":
                vector = real.mean(0)
            case "mean_sqrt":
                vector = real.sum(0) / math.sqrt(max(n, 1))
            case "cls":
                vector = real[0]
            case "lasttoken":
                vector = real[-1]
            case "max":
                vector = real.amax(0)
            case "weightedmean":
                vector = (real * places).sum(0) / places.sum()
            case "smallest":
                vector = real.amin(0)
            case "third token":
                vector = real[min(2, n - 1)]
            case "mean and max":
                vector = real.mean(0) + real.amax(0)
            case "cube":
                vector = real.pow(3).mean(0)
            case "squared weights":
                vector = (real * places**2).sum(0) / (places**2).sum()
            case _:
                raise AssertionError(pooling)
        rows.append(vector)
    return torch.stack(rows)


class Server(ThreadingHTTPServer):
    """A server of OpenAI's, text-embeddings-inference's, Ollama's and Cohere's routes."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, serving: Serving) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.serving = serving
        self.sent: list[str] = []
        self.requests = 0
        self.authorization: list[str | None] = []
        self.lock = threading.Lock()
        self.waiting: list[tuple[str, list[Tensor], threading.Event]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def vectors(self, texts: list[str], string: bool) -> Tensor:
        """Return what the server answers with, planted faults included."""
        serving, bug = self.serving, self.serving.bug
        if bug == "merges" and len(set(texts)) < len(texts):
            texts = list(dict.fromkeys(texts))
        if bug == "order" and len(texts) > 1:
            return serving.embed(sorted(texts, key=len))
        if bug == "empty poisons" and len(texts) > 1 and "" in texts:
            return serving.embed(texts).roll(1, 1)
        if bug == "beginning":
            with self.lock:
                return torch.stack([serving.cache.setdefault(text[:24], serving.embed([text])[0]) for text in texts])
        if bug == "cache":
            with self.lock:
                rows = serving.embed(texts)
                return torch.stack([serving.cache.setdefault(text, row) for text, row in zip(texts, rows, strict=True)])
        if bug.startswith("together") and len(texts) == 1:
            return self._together(texts[0])
        rows = serving.embed(texts)
        if bug == "NaN in lists" and len(texts) > 1:
            counts = [len(serving.model.ids(text)) for text in texts]
            padded = torch.tensor([count < max(counts) for count in counts])
            rows = torch.where(padded.unsqueeze(1), math.nan, rows)
        if bug == "strings" and string:
            return rows.flip(1)
        if bug == "noise":
            rows = rows + 0.002 * torch.randn_like(rows)
        return rounded(rows, bug)

    def _together(self, text: str) -> Tensor:
        """Wait a little for others, and embed those that came in one batch, with a fault if there are several."""
        bug, result = self.serving.bug, list[Tensor]()
        event = threading.Event()
        with self.lock:
            first = not self.waiting
            self.waiting.append((text, result, event))
        if first:
            time.sleep(0.03)
            with self.lock:
                batch, self.waiting = self.waiting, []
            self.serving.over_pads = len(batch) > 1 and bug == "together over pads"
            rows = self.serving.embed([waiting[0] for waiting in batch])
            if bug == "together swapped":
                rows = rows.roll(1, 0)
            for row, waiting in zip(rows, batch, strict=True):
                waiting[1].append(row)
                waiting[2].set()
        event.wait(10)
        return result[0].unsqueeze(0)


def rounded(rows: Tensor, bug: str) -> Tensor:
    """Round numbers to half precision or to int8."""
    if bug in ("float16", "bfloat16"):
        return rows.to(getattr(torch, bug)).float()
    if bug == "int8":
        scale = rows.abs().amax(dim=1, keepdim=True) / 127
        return (rows / scale).round() * scale
    if bug == "int8 numbers":
        return (rows / rows.abs().amax(dim=1, keepdim=True) * 127).round()
    return rows


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        given = body.get("input", body.get("inputs", body.get("texts")))
        texts = [given] if isinstance(given, str) else given
        with self.server.lock:
            self.server.requests += 1
            self.server.sent += texts
            self.server.authorization.append(self.headers.get("authorization"))
        bug = self.server.serving.bug
        if "" in texts and bug in ("empty breaks", "empty refused"):
            self._send(500 if bug == "empty breaks" else 400, {"error": "no text"})
            return
        if bug == "short lists" and len(texts) > 4:
            self._send(413, {"error": "batch size > 4"})
            return
        if bug == "refuses long" and any(len(self.server.serving.model.ids(text)) > LIMIT for text in texts):
            self._send(413, {"error": "too long"})
            return
        rows = self.server.vectors(texts, isinstance(given, str)).tolist()
        self._send(200, self._answer(rows, body))

    def _answer(self, rows: list[list[float]], body: dict[str, Any]) -> Any:
        vectors: list[Any] = [[None if math.isnan(value) else value for value in row] for row in rows]
        if self.path.endswith("/embeddings"):
            if body.get("encoding_format") == "base64":
                kind = {"base64 big-endian": ">f4", "base64 float64": "<f8"}.get(self.server.serving.bug, "<f4")
                vectors = [base64.b64encode(np.array(row, kind).tobytes()).decode() for row in rows]
            data = [{"object": "embedding", "index": n, "embedding": v} for n, v in enumerate(vectors)]
            return {"object": "list", "data": data, "model": body.get("model")}
        if self.path.endswith("/api/embed"):
            return {"embeddings": vectors}
        if self.path.endswith(("/v1/embed", "/v2/embed")):
            return {"embeddings": {"float": vectors}}
        return vectors

    def _send(self, status: int, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextlib.contextmanager
def running(serving: Serving) -> Iterator[Server]:
    """Run a server in a thread."""
    server = Server(serving)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
