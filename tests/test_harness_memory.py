"""The memory of the harness does not grow with the token states of the texts."""

from __future__ import annotations

import json
import time
from mmap import ACCESS_READ, MAP_ANONYMOUS, MAP_PRIVATE, mmap
from pathlib import Path

import pytest

from benchmarks import harness_memory
from tests.command import use_one_process
from tests.matrix import cut

TEXTS, WIDTH = cut(1_000, 2_000), 128


@pytest.mark.full  # 2,000 texts
def test_token_states_are_never_all_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study of 66 treatments takes less than half of the memory of its token states and keeps vectors in files."""
    use_one_process(monkeypatch)
    out = tmp_path / "memory.json"
    arguments = ["--texts", str(TEXTS), "--width", str(WIDTH), "--replicates", "2", "--out", str(out)]
    report = harness_memory.main(arguments)
    assert json.loads(out.read_text(encoding="utf-8")) == report
    assert report["treatments"] == 6 * (1 + 10)
    assert report["bytes_of_all_states"] == TEXTS * WIDTH * 384 * 4
    assert report["bytes_of_vectors_on_disk"] > TEXTS * 66 * 384 * 4 / 2  # plans that pad a text equally share a vector
    assert set(report["cell_peak_bytes"]) == {
        "fit of texts alone, all texts",
        "fit of included, all texts",
        "fit of texts alone, a half-sample",
        "fit of included, a half-sample",
        "floor",
        "shift",
        "batch_effect",
    }
    assert report["samples"] > 100
    assert report["growth_bytes"] < report["bytes_of_all_states"] / 2


def test_peaks_include_memory_that_is_freed_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that is held only briefly counts towards the step that held it."""
    held = 10
    monkeypatch.setattr(harness_memory, "rss_anon", lambda: held)
    peaks = harness_memory.Peaks()
    with peaks.of("nothing"):
        pass
    with peaks.of("much"):
        held, seen = 1000, peaks.samples
        while peaks.samples < seen + 2:  # the first sample may have started earlier
            time.sleep(0.001)
        held = 20
    with peaks.of("nothing more"):
        pass
    assert peaks.bytes == {"nothing": 10, "much": 1000, "nothing more": 20}


def test_memory_that_is_held_is_counted() -> None:
    """Written pages are anonymous memory until they are released."""
    before = harness_memory.rss_anon()
    with mmap(-1, 10**8, flags=MAP_PRIVATE | MAP_ANONYMOUS) as held:
        for place in range(0, len(held), 4096):
            held[place] = 1
        during = harness_memory.rss_anon()
    after = harness_memory.rss_anon()
    assert 0.9e8 < during - before < 1.1e8
    assert 0.9e8 < during - after < 1.1e8


def test_anonymous_memory_is_counted(tmp_path: Path) -> None:
    """A mapped file that has been read is not anonymous."""
    path = tmp_path / "file"
    path.write_bytes(bytes(5 * 10**7))
    before = harness_memory.rss_anon()
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as mapped:
        assert sum(mapped[::4096]) == 0
        assert harness_memory.rss_anon() - before < 1e7
