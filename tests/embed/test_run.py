"""An embedding run: its vectors, its parts, and what a killed run leaves."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from maskpool import build_pooling, embed_corpus
from maskpool.embed import EmbedReport, parts
from maskpool.embed.worker import batches
from maskpool.errors import ExistsError, StorageError
from maskpool.integrations.sentence_transformers import load_plain
from maskpool.integrations.transformers import SentenceEmbedder
from maskpool.nn import POOLINGS
from tests.bench import tiny
from tests.command import content
from tests.embed.conftest import ROWS, texts

PART_ROWS = 13


def table(out: Path) -> dict[str, list[Any]]:
    """Return the columns of all parts, in the order of the parts."""
    columns: dict[str, list[Any]] = {}
    for part in sorted(out.glob("part-*.parquet")):
        for name, values in pq.read_table(part).to_pydict().items():
            columns.setdefault(name, []).extend(values)
    return columns


def vectors(out: Path) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array(table(out)["vector"], np.float32)


def embed(corpus: Path, out: Path, model: Path, **changed: Any) -> EmbedReport:
    settings: dict[str, Any] = {"part_rows": PART_ROWS, "id_column": "id"} | changed
    return embed_corpus(corpus, out, model, **settings)


@pytest.mark.parametrize("batch_tokens", [1, 64, 100_000])
def test_vectors_are_those_of_the_embedder(corpus: Path, model: Path, tmp_path: Path, batch_tokens: int) -> None:
    """Unit vectors are within 1e-6 of those of SentenceEmbedder and of a SentenceTransformer with our pooling."""
    report = embed(corpus, tmp_path / "out", model, batch_tokens=batch_tokens, normalize=True)
    stored = vectors(tmp_path / "out")
    assert report.vectors == ROWS
    np.testing.assert_allclose(stored, SentenceEmbedder(model).embed(texts(), normalize=True), rtol=0, atol=1e-6)
    host = load_plain(model, device="cpu").encode(texts(), normalize_embeddings=True)
    np.testing.assert_allclose(stored, host, rtol=0, atol=1e-6)


def test_every_pooling_and_prompt_is_the_embedders(corpus: Path, model: Path, tmp_path: Path) -> None:
    """A pooling and a prompt give what SentenceEmbedder gives for texts with the prompt in front."""
    mode, (option, *_) = next((mode, names) for mode in POOLINGS if (names := POOLINGS[mode].required_options()))
    embed(corpus, tmp_path / "out", model, pooling=f"{mode}({option}=2)", prompt="w0 ")
    expected = SentenceEmbedder(model, pooling=build_pooling(mode, **{option: 2})).embed(
        [f"w0 {text}" for text in texts()]
    )
    np.testing.assert_allclose(vectors(tmp_path / "out"), expected, rtol=0, atol=1e-5)


def test_parts_are_in_the_order_of_the_input(corpus: Path, model: Path, tmp_path: Path) -> None:
    """Parts have the ids and row numbers of the input, in order, the token counts, and the pads of all batches."""
    report = embed(corpus, tmp_path / "out", model, batch_tokens=128)
    columns = table(tmp_path / "out")
    lengths = [len(text.split()) + 2 for text in texts()]
    assert columns["id"] == [f"doc {number}" for number in range(ROWS)]
    assert columns["row"] == list(range(ROWS))
    assert columns["tokens"] == lengths
    assert not any(columns["truncated"])
    places = [batches(np.array(lengths[start : start + PART_ROWS]), 128) for start in range(0, ROWS, PART_ROWS)]
    widest = [
        max(lengths[start * PART_ROWS + int(place)] for place in batch) * len(batch)
        for start, of_part in enumerate(places)
        for batch in of_part
    ]
    assert report.tokens == sum(lengths)
    assert report.pads == pytest.approx(1 - sum(lengths) / sum(widest))
    assert report.parts == report.new_parts == -(-ROWS // PART_ROWS)


def test_long_texts_are_cut_and_counted(model: Path, tmp_path: Path) -> None:
    """A text of more tokens than the model takes is cut off, marked and counted."""
    source = tmp_path / "long.jsonl"
    source.write_text("".join(json.dumps({"text": "w1 " * words}) + "\n" for words in (3, tiny.LIMIT, 4)), "utf-8")
    report = embed_corpus(source, tmp_path / "out", model)
    assert report.truncated == 1
    assert table(tmp_path / "out")["truncated"] == [False, True, False]
    assert table(tmp_path / "out")["tokens"] == [5, tiny.LIMIT, 6]


def test_half_precision_is_stored_as_such(corpus: Path, model: Path, tmp_path: Path) -> None:
    """A part of dtype float16 stores the float32 vectors, rounded."""
    embed(corpus, tmp_path / "out", model, dtype="float16")
    kind = pq.read_schema(tmp_path / "out" / "part-000000.parquet").field("vector").type
    assert (str(kind.value_type), kind.list_size) == ("halffloat", 32)
    expected = SentenceEmbedder(model).embed(texts()).astype(np.float16)
    np.testing.assert_allclose(vectors(tmp_path / "out"), expected.astype(np.float32), rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("budget", [1, 7, 50, 1_000])
def test_batches_keep_their_budget(budget: int) -> None:
    """Every text is in one batch; only a text that is longer than the budget makes a batch larger than it."""
    lengths = np.random.default_rng(0).integers(-1, 40, 200)
    made = list(batches(lengths, budget))
    assert sorted(np.concatenate(made)) == list(np.flatnonzero(lengths >= 0))
    for batch in made:
        width = max(1, int(lengths[batch].max()))
        assert len(batch) == 1 or len(batch) * width <= budget
        pads = 1 - np.maximum(lengths[batch], 1).sum() / (len(batch) * width)
        assert pads <= 0.02 or len(batch) * width <= budget / 8


def in_a_child(work: Callable[[], object]) -> int:
    """Start a copy of this process that does some work and ends; return its number."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def killed_by_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are copied here")
@pytest.mark.parametrize("moment", ["while a part is written", "after a part is renamed"])
def test_a_killed_run_resumes_to_the_same_bytes(
    moment: str, corpus: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is killed resumes with the parts it had, and its folder ends with the bytes of an undisturbed run."""
    embed(corpus, tmp_path / "whole", model)

    def killed() -> None:
        written = 0
        write = pq.write_table

        def count(*arguments: Any, **keywords: Any) -> None:
            nonlocal written
            written += 1
            write(*arguments, **keywords)
            if written == 3 and moment == "while a part is written":
                arguments[1].write_bytes(arguments[1].read_bytes()[:100])
                killed_by_itself()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pq, "write_table", count)
            if moment == "after a part is renamed":
                note = parts.note_part
                patch.setattr(
                    "maskpool.embed.run.note_part",
                    lambda out, summary: killed_by_itself() if summary.number == 2 else note(out, summary),
                )
            embed(corpus, tmp_path / "out", model)

    os.waitpid(in_a_child(killed), 0)
    before = len(list((tmp_path / "out").glob("part-*.parquet")))
    assert before == (2 if moment == "while a part is written" else 3)
    report = embed(corpus, tmp_path / "out", model)
    assert report.new_parts == report.parts - before
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.full
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are copied here")
def test_a_run_killed_at_any_moment_resumes_to_the_same_bytes(corpus: Path, model: Path, tmp_path: Path) -> None:
    """Kills at twenty moments of a run leave a folder that resumes to the bytes of an undisturbed run."""
    start = time.perf_counter()
    os.waitpid(in_a_child(lambda: embed(corpus, tmp_path / "whole", model, part_rows=2)), 0)
    duration = time.perf_counter() - start
    interrupted = 0
    for moment in range(20):
        out = tmp_path / f"killed {moment}"
        child = in_a_child(lambda out=out: embed(corpus, out, model, part_rows=2))  # type: ignore[misc]  # a default
        time.sleep(duration * (moment + 0.5) / 20)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        interrupted += out.exists() and 0 < len(list(out.glob("part-*.parquet"))) < ROWS // 2
        embed(corpus, out, model, part_rows=2)
        assert content(out) == content(tmp_path / "whole"), moment
    assert interrupted >= 5  # otherwise the moments were not within the run


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"pooling": "max"}, r"pooling.layer was MeanPooling\(\) and is MaxPooling\(\)"),
        ({"dtype": "float16"}, "dtype was float32 and is float16"),
        ({"prompt": "w1 "}, "prompt was  and is w1 "),
        ({"normalize": True}, "normalize was False and is True"),
        ({"id_column": None}, "id_column was id and is None"),
        ({"part_rows": 5}, "part_rows was 13 and is 5"),
        ({"batch_tokens": 77}, "batch_tokens was 2048 and is 77"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_other_settings_are_refused_by_name(
    changed: dict[str, Any], named: str, corpus: Path, model: Path, tmp_path: Path
) -> None:
    """A folder of a run with other settings is refused, the difference named, and nothing in it changes."""
    embed(corpus, tmp_path / "out", model)
    before = content(tmp_path / "out")
    with pytest.raises(ExistsError, match=named):
        embed(corpus, tmp_path / "out", model, **changed)
    assert content(tmp_path / "out") == before


def test_other_weights_and_inputs_are_refused(corpus: Path, model: Path, tmp_path: Path) -> None:
    """Other weights under the same name, and a file of the same size with another text, are refused."""
    own = tiny.save_model(tmp_path / "model")
    embed(corpus, tmp_path / "out", own)
    tiny.save_model(own, seed=1)
    with pytest.raises(ExistsError, match=r"model\.sha256 was \w+… and is \w+…$"):
        embed(corpus, tmp_path / "out", own)
    tiny.save_model(own)
    corpus.write_text(corpus.read_text("utf-8").replace("doc 7", "doc 8"), "utf-8")
    with pytest.raises(ExistsError, match=r"inputs\[corpus\.jsonl\]\.sha256 was"):
        embed(corpus, tmp_path / "out", own)


def test_a_moved_input_and_model_are_the_same(corpus: Path, model: Path, tmp_path: Path) -> None:
    """A run resumes if its input and its model lie elsewhere and are otherwise the same."""
    embed(corpus, tmp_path / "out", model)
    (tmp_path / "out" / "part-000001.parquet").unlink()
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    corpus.rename(moved / corpus.name)
    report = embed(moved / corpus.name, tmp_path / "out", tiny.save_model(tmp_path / "copy"))
    assert report.new_parts == 1


def test_a_folder_has_one_run_at_a_time(corpus: Path, model: Path, tmp_path: Path) -> None:
    """A second run in a folder is refused while the first works in it."""

    class Second:
        """Starts a second run from the first."""

        def task(self, description: str, total: int) -> Any:
            embed(corpus, tmp_path / "out", model)

    with pytest.raises(StorageError, match="another run is working in"):
        embed(corpus, tmp_path / "out", model, progress=Second())
    assert embed(corpus, tmp_path / "out", model).new_parts == 5


def test_a_text_that_fails_alone_has_no_vector(
    corpus: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text that fails even alone is listed and has no vector; the other texts of its batch have theirs."""
    expected = SentenceEmbedder(model).embed(texts())
    bad = {len(texts()[place].split()) + 2 for place in (3, 20)}
    whole = SentenceEmbedder.embed_tokens

    def fails(self: SentenceEmbedder, ids: Any, **keywords: Any) -> Any:
        if bad & {len(tokens) for tokens in ids}:
            raise RuntimeError("no kernel for this length\nsecond line")
        return whole(self, ids, **keywords)

    monkeypatch.setattr(SentenceEmbedder, "embed_tokens", fails)
    report = embed(corpus, tmp_path / "out", model)
    failing = [row for row, text in enumerate(texts()) if len(text.split()) + 2 in bad]
    assert report.failed == tuple((row, "no kernel for this length") for row in failing)
    assert report.vectors == ROWS - len(failing)
    for row, vector in enumerate(table(tmp_path / "out")["vector"]):
        if row in failing:
            assert vector is None
        else:
            np.testing.assert_allclose(vector, expected[row], rtol=0, atol=1e-5)
