"""The benchmark scripts run and measure what they claim."""

from __future__ import annotations

import json
import sqlite3
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import batches, contestants, learned_heads, mutation, pooling_latency, pooling_speed, timing
from tests.bench import tiny
from tests.matrix import cut

TINY = ["--quick", "--rounds", "2", "--shapes", "3x64x8:0.5", "--cache-mib", "1"]


@pytest.mark.full  # calls every contestant; by default only the refusal of a wrong contestant is tested
@pytest.mark.parametrize(
    ("modes", "dtypes"),
    [
        (list(contestants.MODES), ["float32"]),
        (["mean"], list(pooling_speed.DTYPES)),
        pytest.param(list(contestants.MODES), list(pooling_speed.DTYPES), marks=pytest.mark.full),
    ],
    ids=["modes", "dtypes", "both"],
)
def test_pooling_speed_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modes: list[str], dtypes: list[str]
) -> None:
    """Every mode, layout and dtype gets a row, with its peers; a figure is written next to the JSON."""
    monkeypatch.setattr(pooling_speed, "WIDTHS", pooling_speed.WIDTHS[: cut(2, 99)])
    out = tmp_path / "new" / "speed.json"
    rows = pooling_speed.main([*TINY, "--modes", ";".join(modes), "--dtypes", ";".join(dtypes), "--out", str(out)])
    written = json.loads(out.read_text(encoding="utf-8"))
    # Backwards are timed on padded batches.
    assert len(rows) == len(written["rows"]) == len(modes) * len(dtypes) * (len(batches.LAYOUTS) + 1)
    assert {(row.mode, row.dtype) for row in rows} == set(product(modes, dtypes))
    assert written["environment"]["torch"] == torch.__version__
    for row in rows:
        assert row.buffers >= 6
        assert ("host" in row.ms) == (row.mode in contestants.HOST_MODES and row.layout != "nested")
        assert ("recipe" in row.ms) == (row.layout == "padded")
        float32_packed = (row.layout, row.dtype) == ("packed", "float32")
        assert ("segment_reduce" in row.ms) == (row.mode in contestants.SEGMENTS and float32_packed)
        assert ("torch.nested" in row.ms) == (row.mode in contestants.NESTED and row.layout == "nested")
        assert all(len(times) == 2 and min(times) > 0 for times in row.rounds_ms.values())
        assert (row.ours_of_read is not None) == (row.direction == "forward" and row.mode not in ("cls", "lasttoken"))
        # a gradient has the size of a tensor
        assert min(row.peak_memory.values()) >= (0 if row.direction == "forward" else 1)
    widths = [row["shape"].split("x")[1] for row in written["padding"]]
    assert widths == [str(width) for width in pooling_speed.WIDTHS]
    assert out.with_suffix(".png").stat().st_size > 10_000


def test_a_contestant_that_disagrees_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contestants that compute different results are not timed."""
    monkeypatch.setitem(contestants.RECIPES, "mean", lambda x, mask: x.mean(dim=1))
    with pytest.raises(ValueError, match="recipe and ours must agree before they are timed: vectors differ"):
        pooling_speed.main([*TINY, "--modes", "mean"])


def test_pooling_latency_runs(tmp_path: Path) -> None:
    """Each mode gets a median and a 95th percentile of every contestant; a figure is written next to the JSON."""
    out = tmp_path / "new" / "latency.json"
    few = ["--calls", "25", "--shapes", "2x20x8:0.7", "--dtypes", "float32", "--threads", "1", "--out", str(out)]
    rows = pooling_latency.main([*few, "--modes", "mean;attention;topk_mean"])
    names = [set(row.median_us) for row in rows]
    common = {"ours", "recipe", pooling_latency.TEN}
    assert names[0] == common | {"host", "ours in encode", "host in encode"}
    assert names[1] == common | {contestants.NAN_SAFE, "ours in encode"}
    assert names[2] == common
    for row in rows:
        assert row.calls == 25
        assert all(0 < row.median_us[name] <= row.p95_us[name] for name in row.median_us)
    assert len(json.loads(out.read_text(encoding="utf-8"))["rows"]) == 3
    assert out.with_suffix(".png").stat().st_size > 5_000
    with pytest.raises(SystemExit):
        pooling_latency.main([*few, "--modes", "men"])


@pytest.mark.parametrize("nan_safe", [False, True])
def test_the_usual_recipe_of_attention_leaks_nan(nan_safe: bool) -> None:
    """A NaN in a pad reaches the vector of the usual recipe, not that of the recipe that replaces pads."""
    buffer = batches.make_ring(batches.Shape(2, 5, 8, 0.6), "padded", torch.float32, 1, 0, True).buffers[0]
    pools, _ = contestants.contestants("attention", "padded", 8, torch.float32, False)
    with torch.no_grad():
        buffer.x[buffer.mask == 0] = torch.nan
        assert pools[contestants.NAN_SAFE if nan_safe else "recipe"](buffer).isfinite().all() == nan_safe


@pytest.mark.parametrize("layout", batches.LAYOUTS)
def test_buffers_exceed_the_cache_within_the_memory_limit(layout: str) -> None:
    """All buffers together are four times the cache, unless memory runs out first."""
    shape = batches.Shape.parse("4x16x8:0.5")
    ring = batches.make_ring(shape, layout, torch.float32, cache_bytes=10_000, memory_bytes=2**30, quick=False)
    assert 4 <= ring.times_cache < 4.2
    assert {int(buffer.lengths.sum()) * 8 * 4 for buffer in ring.buffers} == {ring.real_bytes}
    assert {buffer.x.numel() * 4 for buffer in ring.buffers} == {2048 if layout == "padded" else ring.real_bytes}
    capped = batches.make_ring(shape, "padded", torch.float32, cache_bytes=10_000, memory_bytes=2048 * 7, quick=False)
    assert len(capped.buffers) == 7


def test_peak_memory_counts_simultaneous_temporaries() -> None:
    """Two temporaries that do not exist at the same time count once at the peak."""
    x = torch.ones(1000, 100)
    assert 1 <= timing.peak_bytes(lambda: x + 1) / 400_000 < 1.01
    assert 1 <= timing.peak_bytes(lambda: [(x + i).sum() for i in range(2)]) / 400_000 < 1.01
    assert 2 <= timing.peak_bytes(lambda: (x + 1) * 2) / 400_000 < 2.01


@pytest.mark.full  # trains heads; their training is tested with the integration
def test_learned_heads_run(tmp_path: Path) -> None:
    """Each head gets a row per task, with the difference of its accuracy to the peer's in points."""
    texts, model, out = tmp_path / "data", tiny.save_model(tmp_path / "model"), tmp_path / "new" / "heads.json"
    for place, name in enumerate(("train", "test")):
        (texts / "banking77").mkdir(parents=True, exist_ok=True)
        written = tiny.write_csv(texts / "banking77" / f"{name}.csv", tiny.make_texts(40, seed=place))
        written.write_text(written.read_text(encoding="utf-8").replace("text,label", "text,category"), encoding="utf-8")
    (texts / "snips").mkdir()
    lines = [json.dumps({"text": text, "label": label}) for text, label in tiny.make_texts(120)]
    (texts / "snips" / "snips.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    report = learned_heads.main(["--quick", "--data", str(texts), "--model", str(model), "--out", str(out)])
    assert json.loads(out.read_text(encoding="utf-8")) == json.loads(json.dumps(report))
    assert [(row["task"], row["head"]) for row in report["rows"]] == [
        (task, head) for task in ("banking77", "snips") for head in learned_heads.HEADS
    ]
    assert [(task["texts"], task["test_texts"]) for task in report["tasks"].values()] == [(40, 40), (100, 20)]
    for row in report["rows"]:
        to_peer, peer = row["to_peer"], report["tasks"][row["task"]]["peer"]
        assert to_peer["points"] == pytest.approx(100 * (np.mean(row["accuracies"]) - peer["accuracy"]))
        assert to_peer["low"] <= to_peer["points"] <= to_peer["high"]
        assert row["epochs"] == len(row["fit_seconds"]) == 2
    with pytest.raises(SystemExit, match=r"learned_heads: .*there is none at"):
        learned_heads.main(["--data", str(tmp_path), "--model", str(model), "--out", str(out)])


def test_intervals_combine_texts_and_seeds() -> None:
    """The width of the interval combines the standard errors over texts and over seeds."""
    rng = np.random.default_rng(0)
    peer = rng.random(2_000) < 0.8
    level = np.array([0.75, 0.8, 0.85, 0.7, 0.9])
    right = rng.random((5, 2_000)) < level[:, None]
    difference = 100 * (right.astype(float) - peer)
    of_texts = difference.mean(axis=0).std() / 2_000**0.5
    of_seeds = difference.mean(axis=1).std() / 5**0.5
    interval = learned_heads.interval(right, peer)
    assert interval["points"] == pytest.approx(difference.mean())
    half_width = (interval["high"] - interval["low"]) / 2
    assert half_width == pytest.approx(1.96 * (of_texts**2 + of_seeds**2) ** 0.5, rel=0.1)


def test_mutants_are_sampled_where_tests_can_detect_them(tmp_path: Path) -> None:
    """The sample holds at most one mutant per place, and none in annotations, messages or keyword-only stars."""
    source = "def double(x: int | None, *, y: int = 2) -> int | None:\n    if not x:\n        raise ValueError(1 + 1)\n"
    (tmp_path / "a.py").write_text(source + "    return x * y\n", encoding="utf-8")
    places = [(1, 18), (1, 26), (1, 38), (1, 48), (3, 26), (4, 13), (4, 13)]
    database = sqlite3.connect(":memory:")
    columns = "module_path, start_pos_row, start_pos_col, operator_name, operator_args, occurrence"
    database.execute(f"CREATE TABLE mutation_specs (job_id, {columns})")
    database.execute("CREATE TABLE work_items (job_id)")
    for job, place in enumerate(places):
        database.execute("INSERT INTO mutation_specs VALUES (?, 'a.py', ?, ?, 'operator', ?, 0)", (job, *place, job))
        database.execute("INSERT INTO work_items VALUES (?)", (job,))
    mutation.keep_sample(database, tmp_path, size=10, seed=0)
    kept = database.execute("SELECT start_pos_row, start_pos_col FROM mutation_specs ORDER BY 1").fetchall()
    assert kept == [(1, 38), (4, 13)]
    assert database.execute("SELECT count(*) FROM work_items").fetchone() == (2,)


def test_mutants_without_an_outcome_are_not_tested() -> None:
    """The report has the survivors and counts mutants that were not run, or whose tests did not start, as untested."""
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE work_items (job_id)")
    database.execute("CREATE TABLE work_results (test_outcome, output, diff)")
    database.executemany("INSERT INTO work_items VALUES (?)", [(job,) for job in range(7)])
    outcomes = [("SURVIVED", ""), ("KILLED", "1 failed"), ("KILLED", "timeout"), ("INCOMPETENT", ""), (None, None)]
    rows = [(outcome, output, f"- {outcome}") for outcome, output in outcomes]
    database.executemany("INSERT INTO work_results VALUES (?, ?, ?)", rows)
    assert mutation.report(database) == (
        "- SURVIVED\n\n3 of 7 tested, 1 survived; 1 of the others ran into the timeout"
    )
