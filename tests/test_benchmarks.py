"""The benchmark scripts run, and measure what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import pooling_speed

TINY = ["--quick", "--rounds", "2", "--shapes", "3x16x8:0.5"]


def test_pooling_speed_runs(tmp_path: Path) -> None:
    """Every mode, dtype and direction gets a row; only the host's missing mode has gaps."""
    out = tmp_path / "new" / "speed.json"
    rows = pooling_speed.main([*TINY, "--out", str(out)])
    written = json.loads(out.read_text(encoding="utf-8"))
    assert len(rows) == len(written["rows"]) == 2 * 2 * len(pooling_speed.MODES)
    assert written["environment"]["torch"] == torch.__version__
    for row in rows:
        assert row.buffers >= 6
        assert (row.host_ms is None) == (row.mode == "attention")
        assert all(len(times) == 2 and min(times) > 0 for times in row.rounds_ms.values())
        assert (row.ours_of_read is not None) == (row.direction == "forward" and row.mode not in ("cls", "lasttoken"))
        assert min(row.peak_memory.values()) >= (
            0 if row.direction == "forward" else 1
        )  # a gradient is a tensor's size


def test_a_contestant_that_disagrees_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is timed that does not compute the same."""
    monkeypatch.setitem(pooling_speed.RECIPES, "mean", lambda x, mask: x.mean(dim=1))
    with pytest.raises(ValueError, match="recipe and ours must agree before they are timed: vectors differ"):
        pooling_speed.main([*TINY, "--modes", "mean"])


def test_buffers_outgrow_the_cache_within_the_memory_allowed() -> None:
    """The real rows of all buffers are four times the cache, unless memory runs out first."""
    shape = pooling_speed.Shape.parse("4x16x8:0.5")
    ring = pooling_speed.make_ring(shape, torch.float32, cache_bytes=10_000, memory_bytes=2**30, quick=False)
    assert 4 <= ring.times_cache < 4.2
    assert {int(buffer.mask.sum()) * 8 * 4 for buffer in ring.buffers} == {ring.real_bytes}
    capped = pooling_speed.make_ring(shape, torch.float32, cache_bytes=10_000, memory_bytes=2048 * 7, quick=False)
    assert len(capped.buffers) == 7


def test_peak_memory_counts_what_is_alive_together() -> None:
    """Two temporaries of which the first is gone before the second comes are one at the peak."""
    x = torch.ones(1000, 100)
    assert 1 <= pooling_speed.peak_bytes(lambda: x + 1) / 400_000 < 1.01
    assert 1 <= pooling_speed.peak_bytes(lambda: [(x + i).sum() for i in range(2)]) / 400_000 < 1.01
    assert 2 <= pooling_speed.peak_bytes(lambda: (x + 1) * 2) / 400_000 < 2.01
