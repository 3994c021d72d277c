"""Every number in the prose of the documentation is that of the committed results or of the code."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from benchmarks.clients import TOLERANCE
from benchmarks.tables import BLOCK, RESULTS
from maskpool.audit.endpoint import audit_endpoint
from maskpool.audit.endpoint.clients import MAX_BYTES, MAX_REQUESTS
from maskpool.audit.run import MAX_TEXTS
from maskpool.bench.design.study import DEFAULT_PAD_TO, Study
from maskpool.bench.part import _CONFOUNDED
from maskpool.bench.report.pages import HEADER, main_table
from maskpool.bench.report.results import main_table_of
from maskpool.bench.score.intervals import CONFIDENCE, ENOUGH_REPLICATES
from maskpool.bench.score.shift import neighbours_kept
from maskpool.cli import endings
from maskpool.embed.duplicates import COMPARED
from maskpool.embed.run import PART_ROWS
from tests.integrations.test_mteb import ACCURACIES, PUBLISHED

ROOT = Path(__file__).parents[1]
NEIGHBOURS = inspect.signature(neighbours_kept).parameters["count"].default
Claim: TypeAlias = tuple[str, tuple[str, ...]]  # a pattern, and what its groups must match
NUMBER = re.compile(r"(?<![\w.,-])\d+(?:,\d{3})*(?:\.\d+)?(?:e-\d+)?%?(?!\w)")
# Numbers that are definitions, digits of lists and tables, or years of references.
MEANT = re.compile(r"[0-9]|1989|2005|1946|1e-6")


def results_of(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def study_rows(name: str) -> dict[tuple[str, str, str], dict[str, Any]]:
    (part,) = results_of(f"{name}/results.json")["parts"]
    rows = main_table_of(part)["rows"]
    return {(row["pooling"], row["plan"], row["treatment"]): row for row in rows}


def prose_of(page: Path) -> str:
    """Return the text of a page without code, generated blocks, links and comments."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"\]\([^)]*\)", "]", re.sub(r"<!--.*?-->", "", BLOCK.sub("", text), flags=re.DOTALL))
    return " ".join(re.sub(r"`[^`]*`", "", text).split())


def points(name: str, pooling: str, plan: str, treatment: str = "included") -> float:
    rows = study_rows(name)
    return float(rows[pooling, "any", "excluded"]["ami"] - rows[pooling, plan, treatment]["ami"])


def findings() -> Iterator[Claim]:
    """Yield sentences of the findings, as patterns, and the numbers that they must quote."""
    (banking,), (snips,) = (results_of(f"{name}/results.json")["parts"] for name in ("banking77", "snips"))
    margin = f"{banking['margin']:g}"
    random, wide, ordered = "random batches of 32", "padded to 128", "sorted batches of 32"
    rows, other_pads = study_rows("banking77"), "another's pads only"
    sorted_plans = [plan for part in (banking, snips) for plan in part["plans"] if plan["name"] == ordered]
    shifts = {f"{study_rows(name)['mean', ordered, 'included']['cosine_shift']:.2f}" for name in ("banking77", "snips")}
    losses = [points("banking77", "lasttoken", plan) for plan in (random, wide, ordered)]
    yield r"a text's (\d+) nearest", (str(NEIGHBOURS),)
    yield r"above the margin of ([\d.]+)", (margin,)
    yield r"random batches of (\d+)\*\*", ("32",)
    yield r"costs ([\d.]+) of AMI on BANKING77", (f"{points('banking77', 'mean', random):.3f}",)
    yield r"BANKING77 \((\d+) fine", (str(banking["corpus"]["labels"]),)
    yield r"Padded to (\d+), it costs ([\d.]+)\.", ("128", f"{points('banking77', 'mean', wide):.3f}")
    yield r"SNIPS \((\d) coarse", (str(snips["corpus"]["labels"]),)
    yield (
        r"(\d+%) of the positions on BANKING77 and (\d+%) on SNIPS",
        tuple(f"{plan['pad_fraction']:.0%}" for plan in sorted_plans),
    )
    yield r"by a cosine shift of ([\d.]+)\.", tuple(shifts)
    yield r"shows no change above ([\d.]+) in sorted", (margin,)
    yield r"In random batches and padded to (\d+), the study", ("128",)
    yield r"loses ([\d.]+) to ([\d.]+)\.", (f"{min(losses):.2f}", f"{max(losses):.2f}")
    yield (
        r"an AMI of ([\d.]+) on BANKING77 \(real tokens of the same study: ([\d.]+)\), "
        r"and those of another text ([\d.]+)\.",
        (
            f"{rows['mean', random, 'pads only']['ami']:.2f}",
            f"{rows['mean', 'any', 'excluded']['ami']:.2f}",
            f"{rows['mean', random, other_pads]['ami']:.2f}",
        ),
    )
    less = {plan: rows["mean", plan, "included"]["against_noise"] for plan in (random, wide)}
    assert less[random]["high"] < 0 < less[wide]["low"]
    yield (
        r"pads lower AMI by ([\d.]+) \[([\d.]+), ([\d.]+)\] more than noise of the same cosine",
        tuple(f"{-less[random][end]:.3f}" for end in ("delta", "high", "low")),
    )
    yield (
        r"padded to (\d+), by ([\d.]+) \[([\d.]+), ([\d.]+)\] less",
        ("128", *(f"{less[wide][end]:.3f}" for end in ("delta", "low", "high"))),
    )

    attention = results_of("attention_on_pads.json")
    widths = tuple(map(str, attention["widths"]))
    yield r"padded to (\d+), (\d+) and (\d+)\.", widths
    pairs = [row for row in attention["rows"] if row["task"] == "SNIPS pairs" and row["width"]]
    own = {row["width"]: row["accuracy"]["mean"] for row in pairs}
    worst = max(own[row["width"]] - row["served"][width]["accuracy"]["mean"] for row in pairs for width in widths)
    unpadded = max(own[row["width"]] - row["served"]["unpadded"]["accuracy"]["mean"] for row in pairs)
    yield r"trained at (\d+) does even better", (widths[0],)
    yield r"up to (\d+) points at another width, and about (\d+) on", (f"{100 * worst:.0f}", f"{100 * unpadded:.0f}")
    yield r"less than ([\d.]+) either way", ("0.02",)
    moved = [abs(row["ami_minus_masked"]["mean"]) for row in attention["rows"] if row.get("ami_minus_masked")]
    assert max(moved) < 0.02
    fitted = sorted({task["train_texts"] * 4 // 5 for task in attention["tasks"].values()}, reverse=True)
    yield (
        r"at most (\d+) tokens, ([\d,]+) or ([\d,]+) of them .* over (\d) seeds",
        (widths[0], *(f"{number:,}" for number in fitted), str(attention["sizes"]["seeds"])),
    )

    heads = results_of("learned_heads.json")
    banking, snips = heads["tasks"]["banking77"], heads["tasks"]["snips"]
    yield (
        r"\(([\d,]+) texts to train on, ([\d,]+) to test on\) and on SNIPS with (\d+) texts .* \(([\d,]+) to test",
        (
            f"{banking['texts']:,}",
            f"{banking['test_texts']:,}",
            str(snips["texts"] // snips["classes"]),
            f"{snips['test_texts']:,}",
        ),
    )
    yield r"after (\d+) epochs\.", (str(heads["estimator"]["max_iter"]),)


def claims(page: str) -> list[Claim]:
    """Return the sentences of a page that hold numbers, as patterns, and the numbers that they must quote."""
    picture = results_of("batch_size.json")
    study = Study()
    excluded = f"{PUBLISHED:.4f}"
    sorted_, by_tokens, random, wide, left = (f"{accuracy:.4f}" for *_, accuracy in ACCURACIES)
    margin, percent = f"{study.margin:g}", f"{100 * CONFIDENCE:.0f}"
    tolerance = f"{TOLERANCE:.0e}".replace("e-0", "e-")
    every: dict[str, list[Claim]] = {
        "README.md": [
            (r"in batches of (\d+) to (\d+) sentences", (str(picture["sizes"][0]), str(picture["sizes"][-1]))),
            (r"cosine is ([\d.]+) in a batch of (\d+)", (f"{picture['naive'][picture['sizes'].index(32)]:.2f}", "32")),
            (r"Python ([\d.]+) or newer", (_python(),)),
        ],
        "docs/get-started.md": [(r"Python ([\d.]+) or newer", (_python(),))],
        "docs/audit/index.md": [(r"If there are more than (\d+), it takes a sample", (str(MAX_TEXTS),))],
        "docs/audit/ci.md": [
            (r"\| (\d) \| clean", (str(endings.SUCCESS),)),
            (r"\| (\d) \| a leak", (str(endings.LEAK),)),
            (r"\| (\d) \| an error", (str(endings.FAILURE),)),
            (r"\| (\d) \| an unknown", (str(endings.UNKNOWN),)),
            (r"\| (\d+) \| Ctrl-C", (str(endings.INTERRUPTED),)),
        ],
        "docs/audit/endpoint.md": [
            (r"stops at (\d+)", (str(MAX_REQUESTS),)),
            (r"(\d+) by default", (f"{inspect.signature(audit_endpoint).parameters['timeout'].default:g}",)),
            (r"more than (\d+) MiB", (str(MAX_BYTES >> 20),)),
        ],
        "docs/benchmark/index.md": [
            (r"scikit-learn's (\d+) newsgroups", ("20",)),
            (r"small, ([\d.]+) by default", (margin,)),
            (r"no change above ([\d.]+)", (margin,)),
        ],
        "docs/benchmark/statistics.md": [
            (r"at least (\d+) times", (str(ENOUGH_REPLICATES),)),
            (r"twenty (\d+) % intervals", (percent,)),
            (r"with (\d+) % probability", (percent,)),
            (r"small, ([\d.]+) by default", (margin,)),
            (r"a text's (\d+) nearest", (str(NEIGHBOURS),)),
            (r"AMI above ([\d.]+)\)", (f"{_CONFOUNDED:g}",)),
        ],
        "docs/findings.md": list(findings()),
        "docs/guides/clients.md": [(r"differ by at most (\S+)\.", (tolerance,))],
        "docs/guides/embed.md": [
            (r"all among the first ([\d,]+) rows", (f"{COMPARED:,}",)),
            (r"at most ([\d,]+) rows of one file", (f"{PART_ROWS:,}",)),
        ],
        "docs/guides/onnx.md": [(r"hold graph and to (\S+)\.", (tolerance,))],
        "docs/guides/mteb.md": [
            (r"pads on the right \| ([\d.]+)", (excluded,)),
            (r"batches of (\d+), sorted by characters .*? \| ([\d.]+)", ("32", sorted_)),
            (r"batches of (\d+), sorted by tokens \| ([\d.]+)", ("32", by_tokens)),
            (r"random batches of (\d+) \| ([\d.]+)", ("32", random)),
            (r"padded to (\d+) \| ([\d.]+)", (str(DEFAULT_PAD_TO), wide)),
            (r"random batches of (\d+), pads on the left \| ([\d.]+)", ("32", left)),
        ],
    }
    return every.get(page, [])


def _python() -> str:
    match = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert match is not None
    return match[1]


# docs/pads.md has its own test, tests/pads/test_answers.py, and pages of bugs theirs.
PAGES = [
    page.relative_to(ROOT).as_posix()
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if page.parent.name != "bugs" and page.name not in ("pads.md", "releasing.md")
]


def wrong_numbers(prose: str, expected: Sequence[Claim]) -> list[str]:
    """Return the claims that quote other numbers than expected, and the numbers that no claim covers."""
    wrong, covered = [], set()
    for pattern, numbers in expected:
        match = re.search(pattern, prose)
        if match is None or match.groups() != numbers:
            wrong.append(f"{pattern} must quote {numbers}: {match and match[0]}")
        else:
            covered |= {place for group in range(1, len(numbers) + 1) for place in range(*match.span(group))}
    for number in NUMBER.finditer(prose):
        if number.start() not in covered and not MEANT.fullmatch(number[0]):
            wrong.append(
                f"…{prose[max(0, number.start() - 40) : number.end() + 20]}…: {number[0]} is not held to anything"
            )
    return wrong


@pytest.mark.parametrize("page", PAGES)
def test_numbers_in_prose(page: str) -> None:
    """Each number of a page is generated, or quoted as the committed results or the code have it."""
    assert wrong_numbers(prose_of(ROOT / page), claims(page)) == []


def test_verdicts_in_the_findings() -> None:
    """The sentences of the findings about clusters say what the tables of both studies say."""
    verdict = {}
    for name in ("banking77", "snips"):
        (part,) = results_of(f"{name}/results.json")["parts"]
        for row in main_table(part, main_table_of(part)):
            cells = dict(zip(HEADER, row, strict=True))
            if cells["treatment"] == "included":
                verdict[name, cells["pooling"], cells["plan"]] = cells["verdict"]
    random, wide, ordered = "random batches of 32", "padded to 128", "sorted batches of 32"
    assert {verdict["banking77", "mean", plan] for plan in (random, wide)} == {"lowered"}
    assert {words for (name, mode, _), words in verdict.items() if (name, mode) == ("snips", "mean")} == {
        "could not tell"
    }
    assert verdict["banking77", "mean", ordered] == "could not tell"
    assert verdict["banking77", "max", ordered] == "no change above 0.03"
    assert {verdict["banking77", "max", plan] for plan in (random, wide)} == {"could not tell"}
    assert {verdict["banking77", "cls", plan] for plan in (random, wide, ordered)} == {"identical"}
    assert {verdict["banking77", "lasttoken", plan] for plan in (random, wide, ordered)} == {"lowered"}


def test_wrong_numbers_are_seen() -> None:
    """A number that differs from its source, and one without a source, are reported."""
    claim = [(r"costs ([\d.]+) of", ("0.083",))]
    assert wrong_numbers("It costs 0.083 of AMI.", claim) == []
    assert len(wrong_numbers("It costs 0.084 of AMI.", claim)) == 2
    assert len(wrong_numbers("It costs 0.083 of AMI, or 25 %.", claim)) == 1
