"""Test token states that are computed once, in memory and in a file."""

from __future__ import annotations

import errno
import json
import os
import pickle
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score, train_test_split
from sklearn.utils import _safe_indexing
from torch import Tensor

from benchmarks import state_cache
from maskpool import TokenBatch
from maskpool.bench.design.corpora import Corpus
from maskpool.encoder import Encoder, TokenStates, cache_states, compute_states, states_file
from maskpool.errors import MaskpoolError
from maskpool.functional import mean_pool
from tests.bench import tiny

TEXTS = [text for text, _ in tiny.make_texts(40)]
BLOCK = 12  # texts per block, small enough for several blocks


@pytest.fixture(scope="session")
def folder(model_folder: Path) -> Path:
    return model_folder


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states_file, "BLOCK", BLOCK)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "states.safetensors"


def _states_alone(encoder: Encoder, text: str) -> torch.Tensor:
    ids, _ = encoder.tokenize([text])
    return encoder.layers(ids)[0][0]


def _cache(encoder: Encoder, path: Path, **changes: Any) -> TokenStates:
    arguments: dict[str, Any] = {"texts": TEXTS, "path": path} | changes
    return cache_states(encoder, **arguments)


@pytest.mark.parametrize("dtype", ["memory", "float32", "float16"])
def test_states_are_those_of_texts_alone(encoder: Encoder, path: Path, dtype: str) -> None:
    """In any batch, a text's states equal those of the text alone, unpadded, up to rounding to the dtype."""
    states = compute_states(encoder, TEXTS) if dtype == "memory" else cache_states(encoder, TEXTS, path, dtype=dtype)
    tolerance = 1e-3 if dtype == "float16" else 1e-5
    for place, text in enumerate(TEXTS):
        expected = _states_alone(encoder, text)
        batch = states.batch([place])
        assert batch.values.dtype == torch.float32
        torch.testing.assert_close(batch.values, expected, rtol=tolerance, atol=tolerance)
    assert states.lengths.tolist() == [len(ids) for ids in encoder.tokenize(TEXTS)[0]]


def test_batches_pool_as_padded_ones_do(encoder: Encoder) -> None:
    """Pooling packed states of texts in any order gives the vectors of their padded batch."""
    chosen = [7, 0, 31]
    padded = encoder.states(encoder.tokenize([TEXTS[place] for place in chosen])[0])
    pooled = mean_pool(compute_states(encoder, TEXTS).batch(chosen))
    torch.testing.assert_close(pooled, mean_pool(*padded), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", [0, 1])
def test_other_layers(encoder: Encoder, layer: int) -> None:
    """A layer below the last can be kept as well."""
    states = compute_states(encoder, TEXTS[:3], layer=layer)
    expected = encoder.layers(encoder.tokenize(TEXTS[:1])[0], (layer,))[0][0]
    torch.testing.assert_close(states.batch([0]).values, expected)


def test_real_tokens_only(encoder: Encoder, path: Path) -> None:
    """The file holds only real tokens and a few bytes per text, and safetensors can open it."""
    states = cache_states(encoder, TEXTS, path)
    tokens = int(states.lengths.sum())
    overhead = path.stat().st_size - tokens * 32 * 2
    assert 0 < overhead < 16 * len(TEXTS) + 2_000
    with safe_open(str(path), framework="pt") as file:
        assert set(file.keys()) == {"values", "offsets", "checksums"}
        assert torch.equal(file.get_tensor("values"), states.values)
        assert torch.equal(file.get_tensor("offsets"), states.offsets)
        assert json.loads(file.metadata()["maskpool"])["texts"] == len(TEXTS)


def test_long_and_empty_texts(tmp_path: Path) -> None:
    """A text beyond the limit is cut off and counted; a text without word tokens keeps its special tokens."""
    short = Encoder.load(str(tiny.save_model(tmp_path / "short", limit=8)))
    states = compute_states(short, ["w1", " ".join(["w2"] * 20), tiny.NO_TOKEN])
    assert states.lengths.tolist() == [3, 8, 2]
    assert states.identity["cut_off"] == 1
    assert len(compute_states(short, [])) == 0


def test_no_texts(encoder: Encoder, path: Path) -> None:
    """An empty list of texts can be cached as well."""
    assert cache_states(encoder, [], path).shape == (0, 32)
    assert TokenStates.open(path, encoder).batch([]).values.shape == (0, 32)


def test_training_mode(folder: Path) -> None:
    """A model in training mode runs without dropout and stays in training mode."""
    encoder = Encoder.load(str(folder))
    expected = compute_states(encoder, TEXTS).values
    encoder.model.train()
    assert torch.equal(compute_states(encoder, TEXTS).values, expected)
    assert encoder.model.training


def test_a_finished_cache_is_opened(encoder: Encoder, path: Path) -> None:
    """A second call opens the finished cache without computing or writing anything."""
    cache_states(encoder, TEXTS, path)
    before = path.stat().st_mtime_ns
    batches: list[int] = []
    states = cache_states(encoder, TEXTS, path, on_batch=batches.append)
    assert (batches, path.stat().st_mtime_ns) == ([], before)
    assert len(TokenStates.open(path, encoder)) == len(states) == len(TEXTS)


KILLED = """
import os, signal, sys
from pathlib import Path

import torch

from maskpool.encoder import Encoder, cache_states, states_file
from tests.bench import tiny

states_file.BLOCK, steps = int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(1)  # threads do not outlive a fork
encoder = Encoder.load(sys.argv[1])
texts = [text for text, _ in tiny.make_texts(40)]
write, calls = states_file.StatesPart._write, 0

def kill_before(nth):
    # Steps: half of a write, all of it, and the renaming.
    def step():
        global calls
        calls += 1
        if calls == nth:
            os.kill(os.getpid(), signal.SIGKILL)
    def halved(self, place, content):
        step()
        self._file.seek(place)
        self._file.write(memoryview(content)[: len(content) // 2])
        step()
        write(self, place, content)
    states_file.StatesPart._write = halved
    replace = os.replace
    os.replace = lambda *names: (step(), replace(*names))

def path(nth):
    return Path(sys.argv[2], f"{nth}.safetensors")

for nth in range(1, steps + 2):
    child = os.fork()
    if not child:
        kill_before(nth)
        cache_states(encoder, texts, path(nth))
        os._exit(0)
    end = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    whole, computed = path(nth).exists(), []
    cache_states(encoder, texts, path(nth), on_batch=computed.append)
    print(end, whole, sum(computed))
"""


@pytest.mark.full  # starts real processes; the default tests resume a part in this process
@pytest.mark.parametrize("block", [20, pytest.param(BLOCK, marks=pytest.mark.full)])
def test_killed_runs_resume(folder: Path, tmp_path: Path, block: int) -> None:
    """After a kill at any step, the next run computes only the missing blocks and ends with the same bytes.

    All runs share a separate process, because torch settings that another test changed may change a last bit.
    """
    blocks = -(-len(TEXTS) // block)
    steps = 2 + 4 * blocks + 1  # two for the head, four for each block, and the renaming
    command = [sys.executable, "-c", KILLED, str(folder), str(tmp_path), str(block), str(steps)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    left = [max(0, len(TEXTS) - block * max(0, (nth - 3) // 4)) for nth in range(1, steps + 1)]
    assert lines == [*(f"-9 False {texts}" for texts in left), "0 True 0"]
    contents = {path.read_bytes() for path in tmp_path.iterdir()}  # no part is left among them
    assert len(contents) == 1
    assert len(list(tmp_path.iterdir())) == steps + 1


def test_a_run_under_another_name_resumes(
    encoder: Encoder, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished blocks of equal states are kept, even if the model name, the release or the block size differs."""
    cache_states(encoder, TEXTS, path)
    content, part = bytearray(path.read_bytes()), path.with_name(path.name + ".part")
    content[-1] ^= 1  # the last block is missing
    same = Encoder.load(str(tiny.save_model(tmp_path / "same")))
    for name, block, version in ((same, BLOCK, None), (encoder, BLOCK, "9.9"), (encoder, 7, None), (same, 100, "9.9")):
        path.unlink()
        part.write_bytes(content)
        computed: list[int] = []
        with monkeypatch.context() as patch:
            patch.setattr(states_file, "BLOCK", block)
            if version:
                patch.setattr("transformers.__version__", version)
            states = cache_states(name, TEXTS, path, on_batch=computed.append)
        assert sum(computed) == len(TEXTS) % BLOCK
        assert states.identity["name"] == encoder.name  # the header is that of the first run
        assert path.read_bytes()[:-1] == content[:-1]
        assert not part.exists()


def test_a_torn_block_is_computed_again(encoder: Encoder, path: Path) -> None:
    """A block whose values do not match its checksum counts as missing, and so do all later blocks."""
    cache_states(encoder, TEXTS, path)
    content, part = path.read_bytes(), path.with_name(path.name + ".part")
    path.unlink()
    torn = bytearray(content)
    torn[-1] ^= 1  # in the last block
    part.write_bytes(torn)
    computed: list[int] = []
    cache_states(encoder, TEXTS, path, on_batch=computed.append)
    assert (sum(computed), path.read_bytes()) == (len(TEXTS) % BLOCK, content)


def test_other_blocks(encoder: Encoder, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file records its block size, so a release with another block size opens it."""
    states = cache_states(encoder, TEXTS, path)
    monkeypatch.setattr(states_file, "BLOCK", 7)
    assert torch.equal(TokenStates.open(path, encoder).values, states.values)


def test_every_byte_counts(encoder: Encoder, path: Path) -> None:
    """Opening the file detects an altered bit anywhere in it."""
    cache_states(encoder, TEXTS, path)
    content = bytearray(path.read_bytes())
    values = len(content) - int(compute_states(encoder, TEXTS).lengths.sum()) * 64
    for place in [*range(0, values, 5), *range(values, len(content), 197), len(content) - 1]:
        content[place] ^= 1 << place % 8
        path.write_bytes(content)
        content[place] ^= 1 << place % 8
        with pytest.raises(
            MaskpoolError, match=r"was altered|must be a file that cache_states has made|is cut off or too"
        ):
            TokenStates.open(path)


@pytest.mark.parametrize("keep", [0, 5, 300, -1])
def test_a_cut_off_file(encoder: Encoder, path: Path, keep: int) -> None:
    """A file that was cut off at any length is refused."""
    cache_states(encoder, TEXTS, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(MaskpoolError, match=r"is cut off|must be a file that cache_states has made"):
        TokenStates.open(path)


def test_no_cache(tmp_path: Path) -> None:
    """A missing file and a file that is not a cache are refused."""
    for content in (None, b"", b"a text", b"\x02\0\0\0\0\0\0\0{}", b"\x04\0\0\0\0\0\0\0null"):
        if content is not None:
            (tmp_path / "file").write_bytes(content)
        with pytest.raises(MaskpoolError, match="must be a file that cache_states has made"):
            TokenStates.open(tmp_path / "file")


def test_another_encoder(encoder: Encoder, path: Path, tmp_path: Path) -> None:
    """Opening and caching refuse states of another encoder, say what differs, and leave the file unchanged."""
    cache_states(encoder, TEXTS, path)
    content = path.read_bytes()
    other = Encoder.load(str(tiny.save_model(tmp_path / "other", seed=1)))
    with pytest.raises(
        MaskpoolError,
        match=f"made by {encoder.name} .weights_sha256 \\w{{12}}….*but {other.name} .weights_sha256.*was requested",
    ):
        TokenStates.open(path, other)
    with pytest.raises(MaskpoolError, match="weights_sha256"):
        cache_states(other, TEXTS, path)
    assert path.read_bytes() == content
    halves = Encoder.load(encoder.name, dtype="bfloat16")
    with pytest.raises(MaskpoolError, match=r"computed_in float32.*computed_in bfloat16"):
        TokenStates.open(path, halves)
    same = Encoder.load(str(tiny.save_model(tmp_path / "same")))  # the same weights in another folder
    assert len(TokenStates.open(path, same)) == len(TEXTS)


def test_another_tokenizer(encoder: Encoder, path: Path, tmp_path: Path) -> None:
    """The same weights with another tokenizer count as another encoder."""
    cache_states(encoder, TEXTS, path)
    folder = tiny.save_model(tmp_path / "other")
    settings = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    settings["normalizer"]["lowercase"] = True
    (folder / "tokenizer.json").write_text(json.dumps(settings), "utf-8")
    with pytest.raises(MaskpoolError, match="tokenizer_sha256"):
        TokenStates.open(path, Encoder.load(str(folder)))


def test_truncation_does_not_change_the_identity_of_a_tokenizer(encoder: Encoder, path: Path) -> None:
    """A tokenizer stores the truncation and padding of its last call, which are not part of its identity."""
    cache_states(encoder, TEXTS, path)
    encoder.tokenizer(TEXTS[:2], truncation=True, max_length=4, padding="max_length")
    assert len(TokenStates.open(path, encoder)) == len(TEXTS)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"texts": TEXTS[:-1]}, r"\(texts 40, .*\(texts 39, "),
        ({"texts": [*TEXTS[:-1], "w1"]}, "tokens_sha256"),
        ({"dtype": "float32"}, r"\(dtype float16\), .*\(dtype float32\)"),
        ({"layer": 1}, r"\(layer -1\), .*\(layer 1\)"),
    ],
)
@pytest.mark.parametrize("unfinished", [False, True], ids=["finished", "unfinished"])
def test_other_states(encoder: Encoder, path: Path, changes: dict[str, Any], text: str, unfinished: bool) -> None:
    """Other texts, another dtype and another layer are refused for a finished and for an unfinished file."""
    cache_states(encoder, TEXTS, path)
    if unfinished:
        path.rename(path.with_name(path.name + ".part"))
    with pytest.raises(MaskpoolError, match=text):
        _cache(encoder, path, **changes)


def test_a_part_without_a_finished_block_is_replaced(encoder: Encoder, path: Path) -> None:
    """A call that fails before its first block does not block a later call for other states."""
    with pytest.raises(ValueError, match="layer must be 0"):
        cache_states(encoder, TEXTS, path, layer=9)
    states = cache_states(encoder, TEXTS[1:], path, layer=1)
    assert torch.equal(states.values, compute_states(encoder, TEXTS[1:], layer=1).values.half())


def test_somebody_elses_part(encoder: Encoder, path: Path) -> None:
    """A file with the name of the part that is not an unfinished cache stays unchanged."""
    part = path.with_name(path.name + ".part")
    part.write_text("my notes", "utf-8")
    with pytest.raises(
        MaskpoolError, match="is not an unfinished cache of these texts: delete it, or choose another path"
    ):
        cache_states(encoder, TEXTS, path)
    assert part.read_text("utf-8") == "my notes"


def test_two_at_once(encoder: Encoder, path: Path) -> None:
    """While one call fills a file, a second call is refused."""

    def second(_: int) -> None:
        with pytest.raises(MaskpoolError, match="is being filled by another process"):
            cache_states(encoder, TEXTS, path)

    assert len(cache_states(encoder, TEXTS, path, on_batch=second)) == len(TEXTS)


@contextmanager
def _files_of_at_most(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("most", [100, 9_000])
def test_a_disk_without_room(encoder: Encoder, path: Path, most: int) -> None:
    """A disk that is too small for the file fails before anything is computed, and its free space stays free."""
    computed: list[int] = []
    text = f"{path} could not be written: .*; free some space and call again, which resumes where this stopped"
    with _files_of_at_most(most), pytest.raises(MaskpoolError, match=text):
        cache_states(encoder, TEXTS, path, on_batch=computed.append)
    assert computed == []
    assert path.with_name(path.name + ".part").stat().st_size < 4_000
    assert len(cache_states(encoder, TEXTS, path)) == len(TEXTS)


def test_a_disk_that_fills_up(encoder: Encoder, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up within a block raises a clear error; the next run resumes and ends with the same bytes."""

    def no_reserving(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def full(part: states_file.StatesPart, place: int, content: bytes) -> None:
        if place > part.layout.block(2, part.offsets)[0] - 1:
            write(part, place, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(part, place, content)

    write = states_file.StatesPart._write
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", no_reserving)
        patch.setattr(states_file.StatesPart, "_write", full)
        with pytest.raises(
            MaskpoolError, match=r"could not be written: No space left on device; free some space and call"
        ):
            cache_states(encoder, TEXTS, path)
    assert not path.exists()
    computed: list[int] = []
    cache_states(encoder, TEXTS, path, on_batch=computed.append)
    assert sum(computed) == len(TEXTS) - 2 * BLOCK
    cache_states(encoder, TEXTS, path.with_name("whole"))
    assert path.read_bytes() == path.with_name("whole").read_bytes()


def test_a_folder_that_cannot_be_written(encoder: Encoder, tmp_path: Path) -> None:
    """Other write errors name the file and the reason."""
    (tmp_path / "file").touch()
    with pytest.raises(MaskpoolError, match=r"states could not be written: .*; fix that and call again"):
        cache_states(encoder, TEXTS, tmp_path / "file" / "states")


def test_states_too_large_for_halves(folder: Path, path: Path) -> None:
    """A state that is too large for float16 is refused; the way out that the error names works."""
    encoder = Encoder.load(str(folder))
    with torch.no_grad():
        encoder.model.get_parameter("encoder.layer.1.output.LayerNorm.bias")[0] = 1e6
    with pytest.raises(
        MaskpoolError, match=r"dtype must hold every state, and a token state is too large for float16: pass 'float32'"
    ):
        cache_states(encoder, TEXTS, path)
    assert cache_states(encoder, TEXTS, path, dtype="float32").values.max() > 65504


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"dtype": "bfloat16"}, ValueError, "dtype must be one of 'float16', 'float32', got 'bfloat16'"),
        ({"batch_size": 0}, ValueError, "batch_size must be a positive integer, got 0"),
        ({"texts": "one text"}, TypeError, "texts must be a list of strings, got one str"),
        ({"texts": ["a", None]}, TypeError, "texts must hold only strings, got NoneType at place 1"),
        ({"layer": 9}, ValueError, "layer must be 0"),
    ],
)
def test_bad_input(encoder: Encoder, path: Path, changes: dict[str, Any], error: type[Exception], text: str) -> None:
    """An invalid argument is refused, and the error names it."""
    with pytest.raises(error, match=text):
        _cache(encoder, path, **changes)


@pytest.mark.parametrize("kept", ["memory", "file"])
def test_views(encoder: Encoder, path: Path, kept: str) -> None:
    """Slices, integers and masks choose texts, also in views of views, without copying states."""
    states = compute_states(encoder, TEXTS) if kept == "memory" else cache_states(encoder, TEXTS, path)
    rng = np.random.default_rng(0)
    for key in (
        slice(3, 20, 2),
        rng.permutation(40)[:9],
        rng.random(40) < 0.5,
        [4, 1],
        np.array([], int),
        -2,
        (slice(5), Ellipsis),
        7,
    ):
        view = states[key]
        places = np.atleast_1d(np.arange(40)[key[0] if isinstance(key, tuple) else key])
        assert view.shape == (len(places), 32)
        assert view.values.data_ptr() == states.values.data_ptr()
        assert view.lengths.tolist() == states.lengths[places].tolist()
        for place, text in enumerate(places):
            assert torch.equal(view.batch([place]).values, states.batch([int(text)]).values)
    assert torch.equal(states[10:20][[3]].batch([0]).values, states.batch([13]).values)
    for columns in (0, [0, 1], np.arange(2), slice(1)):
        with pytest.raises(IndexError, match="token states are indexed by texts only"):
            states[:, columns]
    assert len(states[[]]) == 0
    with pytest.raises(IndexError):
        states.batch([40])


def test_no_table(encoder: Encoder) -> None:
    """States cannot be converted to an array, and the error says how to pool them."""
    with pytest.raises(TypeError, match="states must be pooled before they are an array"):
        np.asarray(compute_states(encoder, TEXTS))


@pytest.mark.parametrize(
    ("values", "offsets", "text"),
    [
        ((3,), [0, 3], r"values must have the shape \(tokens, dim\), got \(3,\)"),
        ((3, 2), [0, 2], r"end at the number of tokens, 3; got the shape \(2,\), and \(0, 2\) at its ends"),
        ((3, 2), [1, 3], "start at 0"),
        ((3, 2), [0, 2, 1, 3], "never decrease"),
        ((0, 2), [], "got the shape .*, and nothing at its ends"),
    ],
)
def test_states_that_do_not_fit(values: tuple[int, ...], offsets: list[int], text: str) -> None:
    """Offsets that do not split the tokens into texts are refused."""
    with pytest.raises(ValueError, match=text):
        TokenStates(torch.zeros(values), torch.tensor(offsets, dtype=torch.int64))


@pytest.mark.parametrize(
    "values",
    [
        *(torch.zeros(3, 2, dtype=dtype) for dtype in (torch.bfloat16, torch.float64, torch.int64)),
        torch.zeros(3, 2, requires_grad=True),
        torch.zeros(3, 2, device="meta"),
    ],
    ids=lambda values: f"{values.dtype}-{values.device}-{values.requires_grad}",
)
def test_states_that_numpy_cannot_hold_or_would_round(values: Tensor) -> None:
    """Values that NumPy cannot read, or that a batch in float32 would round, are refused with the way out."""
    with pytest.raises(TypeError, match=r"values must be float16 or float32 on the CPU .*detach\(\).float\(\).cpu\(\)"):
        TokenStates(values, torch.tensor([0, 1, 3]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_documented_dtypes_make_batches(dtype: torch.dtype) -> None:
    """States in float16 and float32 make batches in float32 with equal values."""
    values = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(TokenStates(values, torch.tensor([0, 1, 3])).batch([0, 1]).values, values.float())


@pytest.mark.parametrize("texts", [[True, False], torch.ones(3, dtype=torch.bool), [0.5], [[0]], 3])
def test_batch_refuses_anything_but_places(encoder: Encoder, texts: Any) -> None:
    """`batch` accepts only places; it does not read a mask as zeros and ones."""
    with pytest.raises(TypeError, match=r"texts must be places, a list of integers; got"):
        compute_states(encoder, TEXTS[:3]).batch(texts)


class _Pooled(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """Fit a logistic regression on mean-pooled states."""

    def fit(self, states: TokenStates, labels: Any) -> _Pooled:
        self.inner_ = LogisticRegression().fit(self._pool(states), labels)
        self.classes_ = self.inner_.classes_
        return self

    def predict(self, states: TokenStates) -> Any:
        return self.inner_.predict(self._pool(states))

    def _pool(self, states: TokenStates) -> Any:
        return mean_pool(states.batch(range(len(states)))).numpy()


def test_scikit_learn_splits(encoder: Encoder) -> None:
    """scikit-learn indexes states like the rows of a table."""
    states, labels = compute_states(encoder, TEXTS), np.arange(40) % 4
    assert _safe_indexing(states, np.array([3, 5])).texts.tolist() == [3, 5]
    train, test, _, test_labels = train_test_split(states, labels, test_size=10, stratify=labels, random_state=0)
    assert sorted([*train.texts.tolist(), *test.texts.tolist()]) == list(range(40))
    assert (test.texts.numpy() % 4 == test_labels).all()
    vectors = mean_pool(TokenBatch.from_packed(states.values, states.offsets)).numpy()
    expected = cross_val_score(LogisticRegression(), vectors, labels, cv=StratifiedKFold(4))
    np.testing.assert_allclose(cross_val_score(_Pooled(), states, labels, cv=StratifiedKFold(4)), expected)
    assert np.shape(states) == (40, 32)


def test_pickling(encoder: Encoder, path: Path) -> None:
    """States in memory are pickled with their values, states of a file as its path; the file must be unchanged."""
    for states in (compute_states(encoder, TEXTS), cache_states(encoder, TEXTS, path)):
        again = pickle.loads(pickle.dumps(states[5:9]))
        assert torch.equal(again.batch([0, 2]).values, states.batch([5, 7]).values)
        assert again.identity == states.identity
    pickled = pickle.dumps(TokenStates.open(path)[5:9])
    assert len(pickled) < 2_000
    path.unlink()
    cache_states(encoder, TEXTS[::-1], path)
    with pytest.raises(MaskpoolError, match="does not hold the states that were pickled"):
        pickle.loads(pickled)


def test_a_file_is_checked_once_per_process(encoder: Encoder, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unpickling a view checks the values only if this process has not checked them or the file has changed."""
    states = cache_states(encoder, TEXTS, path)
    pickled = pickle.dumps(states)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(MaskpoolError, match="was altered"):
        pickle.loads(pickled)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as if it had not changed
    assert len(pickle.loads(pickled)) == len(clone(states, safe=False)) == len(TEXTS)
    with pytest.raises(MaskpoolError, match="was altered"):
        TokenStates.open(path)


def test_writing_to_states_leaves_the_file(encoder: Encoder, path: Path) -> None:
    """The mapping is private: overwriting values in memory does not change the file."""
    states, content = cache_states(encoder, TEXTS, path), path.read_bytes()
    states.values.zero_()
    assert path.read_bytes() == content


def test_the_benchmark_runs(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Size, reading and training are measured for both dtypes, and the ratios follow from the times."""
    texts, labels = zip(*tiny.make_texts(70), strict=True)
    monkeypatch.setattr(state_cache, "read_corpus", lambda limit: Corpus("colours", list(texts), list(labels)))
    out = tmp_path / "new" / "cache.json"
    report = state_cache.main(["--quick", "--model", str(folder), "--out", str(out)])
    assert json.loads(out.read_text("utf-8")) == report
    assert [file.name for file in out.parent.iterdir()] == ["cache.json"]
    for dtype, size in (("float16", 2), ("float32", 4)):
        file = report["files"][dtype]
        assert file["size_ratio"] == pytest.approx(file["bytes"] / (file["tokens"] * 32 * size))
        for timing in file["reading"].values():
            fastest = min(timing["seconds"][name] for name in (state_cache.SLICES, state_cache.ROWS))
            assert timing["speed_of_plain_read"] == pytest.approx(fastest / timing["seconds"][state_cache.OURS])
    spent = report["training"]["epoch_s"]
    fastest = min(spent[state_cache.SHUFFLED], spent[state_cache.BY_LENGTH])
    assert report["training"]["times_as_fast"] == pytest.approx(fastest / spent[state_cache.CACHED])


def test_readers_that_disagree_are_not_timed(encoder: Encoder, path: Path) -> None:
    """The benchmark refuses to time readers that return different values."""
    states = cache_states(encoder, TEXTS, path)
    states.values[5] += 1  # changes only the private mapping
    with pytest.raises(ValueError, match=r"memmap, slices and TokenStates.batch must agree before they are timed"):
        state_cache.measure_reading(states, path, 1, 0.01)
