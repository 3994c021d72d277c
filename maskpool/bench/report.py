"""Results as people and programs read them: a table, results.json, results.csv, figures, report.md."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import jinja2
from rich import box
from rich.console import Group
from rich.table import Table

from maskpool.bench.arms import MEANING
from maskpool.bench.figures import draw_quality, draw_shift
from maskpool.bench.run import Results
from maskpool.errors import UserError

FILES = ("results.csv", "quality.png", "shift.png", "report.md", "results.json")
CSV_COLUMNS = (
    "pooling",
    "plan",
    "arm",
    "texts",
    "cosine_shift",
    "cosine_shift_p95",
    "cosine_shift_max",
    "neighbours_kept",
    "ami",
    "ari",
    "v_measure",
    "homogeneity",
    "completeness",
    "accuracy",
    "delta",
    "low",
    "high",
    "standard_error",
    "floor",
)
HEADER = (
    "pooling",
    "plan",
    "arm",
    "texts",
    "cosine shift",
    "neighbours kept",
    "AMI",
    "ARI",
    "V",
    "ΔAMI [95 %]",
    "floor",
)


def table(results: Results) -> list[list[str]]:
    """The main table as text, a list a row; baselines last."""
    rows = []
    for row in results["rows"]:
        change = f"{row['delta']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]" if "delta" in row else "reference"
        rows.append(
            [
                row["pooling"],
                row["plan"],
                row["arm"],
                str(row["texts"]),
                f"{abs(row['cosine_shift']):.3f}",
                f"{row['neighbours_kept']:.2f}",
                f"{row['ami']:.3f}",
                f"{row['ari']:.3f}",
                f"{row['v_measure']:.3f}",
                change,
                f"{row['floor']:.3f}",
            ]
        )
    return rows + _baseline_rows(results)


def _baseline_rows(results: Results) -> list[list[str]]:
    rows = []
    for name, scores in (("TF-IDF", "tfidf"), ("length deciles", "length_deciles")):
        numbers = [f"{results['baselines'][scores][metric]:.3f}" for metric in ("ami", "ari", "v_measure")]
        rows.append([name, "none", "baseline", str(results["corpus"]["texts"]), "", "", *numbers, "", ""])
    return rows


def attention_table(results: Results) -> list[list[str]]:
    """The 2 × 2 of mask at training and at serving as text."""
    return [
        [
            row["trained"],
            row["served"],
            f"{row['ami']:.3f} ± {row['ami_sd']:.3f}",
            "reference"
            if row["trained"] == row["served"] == "with mask"
            else f"{row['difference']:+.3f} ± {row['difference_sd']:.3f}",
            f"{row['attention_on_pads']:.1%}",
        ]
        for row in results["attention"]["rows"]
    ]


ATTENTION_HEADER = ("trained", "served", "AMI", "ΔAMI", "attention on pads")


def show(results: Results) -> Group:
    """What the command prints: the tables, narrow enough for a terminal; the files say more."""
    corpus, model = results["corpus"], results["model"]
    title = f"{corpus['name']}: {corpus['texts']} texts, {corpus['labels']} labels; {model['name']}"
    if results["demonstration"]:
        title = f"DEMONSTRATION, not a finding\n{title}"
    narrow = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("pooling", "plan", "arm"):
        narrow.add_column(name)
    for name in ("shift", "kept", "AMI", "V", "ΔAMI ± 95 %", "floor"):
        narrow.add_column(name, justify="right", no_wrap=True)
    for before, row in pairwise([None, *results["rows"]]):
        if before and before["pooling"] != row["pooling"]:
            narrow.add_section()
        narrow.add_row(row["pooling"], row["plan"], row["arm"], *_narrow_numbers(row))
    narrow.add_section()
    for name, *_, ami, _, v, _, _ in _baseline_rows(results):
        narrow.add_row(name, "", "baseline", "", "", ami, v, "", "")
    parts: list[Table | str] = [narrow, _LEGEND]
    if results["attention"]:
        width = results["attention"]["width"]
        title = f"attention heads trained on half of the classes, clustering the others; padded to {width}"
        heads = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for number, name in enumerate(ATTENTION_HEADER):
            heads.add_column(name, justify="right" if number > 1 else "left")
        for cells in attention_table(results):
            heads.add_row(*cells)
        parts.append(heads)
    return Group(*parts)


_LEGEND = (
    "shift: 1 − cosine to pads excluded; kept: share of 10 nearest neighbours; ΔAMI: to pads excluded, with "
    "simultaneous 95 % intervals; floor: how far two runs of the excluded arm differ by seeds alone"
)


def _narrow_numbers(row: Results) -> list[str]:
    change = f"{row['delta']:+.3f} ± {row['high'] - row['delta']:.3f}" if "delta" in row else "reference"
    numbers = [abs(row["cosine_shift"]), row["neighbours_kept"], row["ami"], row["v_measure"]]
    return [*(f"{number:.3f}" for number in numbers), change, f"{row['floor']:.3f}"]


def check_folder(folder: Path) -> None:
    """Make the folder and see that it can be written.

    Raises:
        UserError: It cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        for file in FILES:
            if (folder / file).is_dir():
                raise IsADirectoryError(None, f"{file} in it is a folder")
    except OSError as error:
        raise UserError(f"--out must be a folder that can be written, got {folder}: {error.strerror}") from error


def write(results: Results, folder: Path) -> None:
    """Write every file beside its place and put it there when all are whole; results.json goes last.

    Raises:
        UserError: The folder cannot be written; what stood there stays.
    """
    check_folder(folder)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished-") as name:
            staged = Path(name)
            _write_csv(results, staged / "results.csv")
            draw_quality(results, staged / "quality.png")
            draw_shift(results, staged / "shift.png")
            (staged / "report.md").write_text(markdown(results), encoding="utf-8")
            (staged / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            for file in FILES:
                os.replace(staged / file, folder / file)
    except OSError as error:
        raise UserError(f"--out must be a folder that can be written, got {folder}: {error.strerror}") from error


def _write_csv(results: Results, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, CSV_COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(results["rows"])


def markdown(results: Results) -> str:
    """The report, figures named by their files."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("maskpool.bench"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # it renders Markdown, of our own numbers
    )
    return environment.get_template("report.md.jinja").render(
        results=results,
        meaning=MEANING,
        main="\n".join(markdown_table(HEADER, table(results))),
        attention="\n".join(markdown_table(ATTENTION_HEADER, attention_table(results)))
        if results["attention"]
        else None,
    )


def markdown_table(header: tuple[str, ...], rows: list[list[str]]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| " + " | ".join(header) + " |"
    yield "|" + " --- |" * len(header)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
