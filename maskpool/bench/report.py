"""Results as people and programs read them: the screen, results.json, results.csv, figures, report.md, report.html."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import jinja2
from rich import box
from rich.console import Group
from rich.table import Table

from maskpool.bench.arms import ARMS, EXCLUDED, INCLUDED
from maskpool.bench.figures import FIGURES
from maskpool.bench.folder import StudyFolder
from maskpool.bench.mixed import MIXED
from maskpool.bench.quality import CLUSTERER_MEANING
from maskpool.bench.results import Results, difference, effect, lead_plan

CSV_COLUMNS = (
    "model",
    "corpus",
    "layer",
    "by",
    "pooling",
    "plan",
    "arm",
    "leak",
    "texts",
    "cosine_shift",
    "cosine_shift_p95",
    "cosine_shift_max",
    "length_ratio",
    "neighbours_kept",
    "shift_by_padding",
    "length_ami",
    "metric",
    "ami",
    "ari",
    "v_measure",
    "homogeneity",
    "completeness",
    "accuracy",
    "reference",
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
MIXED_HEADER = ("pooling", "plan", "pipeline", "score", "both alone", "mixed", "Δ [95 %]", "floor")
LEAK_HEADER = ("leak", "plan", "cosine shift", "AMI", "ΔAMI [95 %]", "floor", "re-creates")
INFLUENCE_HEADER = ("pooling", "plan", "by batch alone", "by seed alone", "fixed clusters, by batch", "neighbours kept")
COST_HEADER = ("plan", "how it happens", "tokens", "of them pads", "encoder seconds", "ΔAMI [95 %]", "floor")
ATTENTION_HEADER = ("trained", "served", "AMI", "ΔAMI [95 %]", "floor", "attention on pads")
EFFECT = {"lower": "lower", "higher": "higher", "none": "no change shown"}


def table(rows: Sequence[Results]) -> list[list[str]]:
    """The rows of a clusterer's table as text."""
    return [
        [
            row["pooling"],
            row["plan"],
            row["arm"],
            str(row["texts"]),
            f"{abs(row.get('cosine_shift', 0)):.3f}",
            f"{row.get('neighbours_kept', 1):.2f}",
            f"{row['ami']:.3f}",
            f"{row['ari']:.3f}",
            f"{row['v_measure']:.3f}",
            difference(row) if "delta" in row else "reference",
            f"{row['floor']:.3f}",
        ]
        for row in rows
    ]


def baseline_rows(part: Results) -> list[list[str]]:
    """What trivial methods get, in the columns of the main table."""
    rows = []
    for name, scores in (("TF-IDF", "tfidf"), ("length deciles", "length_deciles")):
        numbers = [f"{part['baselines'][scores][metric]:.3f}" for metric in ("ami", "ari", "v_measure")]
        rows.append([name, "none", "baseline", str(part["corpus"]["texts"]), "", "", *numbers, "", ""])
    return rows


def main_table(part: Results, table_number: int = 0) -> list[list[str]]:
    """A clusterer's table with the baselines below it."""
    return table(part["tables"][table_number]["rows"]) + baseline_rows(part)


def mixed_table(rows: Sequence[Results]) -> list[list[str]]:
    """The table of mixed plans as text."""
    return [
        [
            row["pooling"],
            row["plan"],
            row["arm"],
            row["metric"],
            f"{row['reference']:.3f}",
            f"{row['reference'] + row['delta']:.3f}",
            difference(row),
            f"{row['floor']:.3f}",
        ]
        for row in rows
        if "delta" in row
    ]


def leak_table(part: Results) -> list[list[str]]:
    """The public bugs, plan by plan."""
    return [
        [
            row["leak"],
            row["plan"],
            f"{abs(row['cosine_shift']):.3f}",
            f"{row['ami']:.3f}",
            difference(row),
            f"{row['floor']:.3f}",
            row["recreates"],
        ]
        for row in sorted(cluster_rows(part), key=lambda row: row.get("leak", ""))
        if "leak" in row
    ]


def cluster_rows(part: Results) -> list[Results]:
    """The rows of the first table that clusters."""
    return part["tables"][0]["rows"] if part["tables"] and part["tables"][0]["by"] != "mixed" else []


def influence_table(part: Results) -> list[list[str]]:
    """How many texts change cluster by their batch, and by the seed."""
    return [
        [
            row["pooling"],
            row["plan"],
            f"{row['by_batch']:.1%}",
            f"{row['by_seed']:.1%}",
            f"{row['by_batch_fixed_clusters']:.1%}",
            f"{row['neighbours_kept']:.2f}",
        ]
        for row in part["influence"]
    ]


def cost_table(part: Results) -> list[list[str]]:
    """What padding costs in tokens and seconds, beside what reading the pads costs in quality."""
    rows = {row["plan"]: row for row in reversed(cluster_rows(part)) if row["arm"] == INCLUDED}
    return [
        [
            plan["name"],
            plan["happens"],
            f"{plan['tokens']:,}",
            f"{plan['pad_fraction']:.0%}",
            f"{plan['seconds']:.1f}",
            f"{rows[plan['name']]['pooling']}: {difference(rows[plan['name']])}" if plan["name"] in rows else "",
            f"{rows[plan['name']]['floor']:.3f}" if plan["name"] in rows else "",
        ]
        for plan in part["plans"]
        if not plan["for_leaks_alone"]
    ]


def attention_table(part: Results) -> list[list[str]]:
    """The 2 × 2 of mask at training and at serving as text."""
    return [
        [
            row["trained"],
            row["served"],
            f"{row['ami']:.3f}",
            "reference" if row["trained"] == row["served"] == "with mask" else difference(row),
            f"{row['floor']:.3f}",
            f"{row['attention_on_pads']:.1%}",
        ]
        for row in part["attention"]["rows"]
    ]


def causes(part: Results) -> list[str]:
    """What the arms that read pads alone, or noise, say about the cause: a sentence for each pooling."""
    found = []
    lead = lead_plan(part["plans"])
    for pooling in dict.fromkeys(row["pooling"] for row in cluster_rows(part)):
        arms = {row["arm"]: row for row in cluster_rows(part) if row["pooling"] == pooling and row["plan"] == lead}
        said = []
        if "pads only" in arms:
            row = arms["pads only"]
            said.append(
                f"the pads alone reach an AMI of {row['ami']:.3f} where the real tokens of the same texts reach "
                f"{row['reference']:.3f} (Δ {difference(row)}, floor {row['floor']:.3f})"
            )
        if "noise" in arms and INCLUDED in arms:
            noise, pads = arms["noise"], arms[INCLUDED]
            apart = noise["low"] > pads["high"] or noise["high"] < pads["low"]
            worse = "harm more" if pads["delta"] < noise["delta"] else "harm less"
            said.append(
                f"noise of the same cosine gives Δ {difference(noise)} where the pads give {difference(pads)} (floor "
                f"{noise['floor']:.3f}): "
                + (
                    f"the pads {worse} than a shift of that size must"
                    if apart
                    else "their intervals overlap, so the size of the shift may be all there is to it"
                )
            )
        for arm, meaning in (
            ("common pad", "one vector in place of every pad"),
            ("another's pads", "another text's pads"),
        ):
            if arm in arms:
                said.append(f"{meaning} gives Δ {difference(arms[arm])} (floor {arms[arm]['floor']:.3f})")
        if said:
            found.append(f"{pooling}, {lead}: {'; '.join(said)}.")
    return found


def verdicts(results: Results) -> list[str]:
    """One sentence for each model on each corpus."""
    return [part["verdict"] for part in results["parts"]]


def show(results: Results) -> Group:
    """What the command prints: the tables, narrow enough for a terminal; the files say more."""
    parts: list[Table | str] = []
    for part in results["parts"]:
        corpus, model = part["corpus"], part["model"]
        title = f"{corpus['name']}: {corpus['texts']} texts, {corpus['labels']} labels; {model['name']}"
        if corpus["demonstration"]:
            title = f"DEMONSTRATION, not a finding\n{title}"
        for number, one in enumerate(part["tables"]):
            layer = "" if one["layer"] == -1 else f", layer {one['layer']}"
            parts.append(_narrow(one, f"{title}{layer}" if number == 0 else f"{one['by']}{layer}", part))
        if part["attention"]:
            parts.append(_narrow_attention(part))
    return Group(*parts, _LEGEND, *verdicts(results))


def _narrow(one: Results, title: str, part: Results) -> Table:
    narrow = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("pooling", "plan", "arm"):
        narrow.add_column(name)
    names = (
        ("score", "Δ ± 95 %", "floor")
        if one["by"] == "mixed"
        else ("shift", "kept", "AMI", "V", "ΔAMI ± 95 %", "floor")
    )
    for name in names:
        narrow.add_column(name, justify="right", no_wrap=True)
    for before, row in pairwise([None, *one["rows"]]):
        if before and before["pooling"] != row["pooling"]:
            narrow.add_section()
        if one["by"] != "mixed":
            narrow.add_row(row["pooling"], row["plan"], row["arm"], *_narrow_numbers(row))
        elif "delta" in row:
            change = f"{row['delta']:+.3f} ± {row['high'] - row['delta']:.3f}"
            narrow.add_row(
                row["pooling"], row["plan"], row["arm"], f"{row['reference']:.3f}", change, f"{row['floor']:.3f}"
            )
    if one["by"] != "mixed":
        narrow.add_section()
        for name, *_, ami, _, v, _, _ in baseline_rows(part):
            narrow.add_row(name, "", "baseline", "", "", ami, v, "", "")
    return narrow


def _narrow_attention(part: Results) -> Table:
    title = (
        f"attention heads trained on half of the classes, clustering the others; padded to {part['attention']['width']}"
    )
    heads = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, name in enumerate(ATTENTION_HEADER):
        heads.add_column(name, justify="right" if number > 1 else "left")
    for cells in attention_table(part):
        heads.add_row(*cells)
    return heads


_LEGEND = (
    "shift: 1 − cosine to real tokens alone; kept: share of 10 nearest neighbours; Δ: to real tokens alone, with "
    "simultaneous 95 % intervals; floor: how far two runs of the excluded arm differ by seeds alone"
)


def _narrow_numbers(row: Results) -> list[str]:
    change = f"{row['delta']:+.3f} ± {row['high'] - row['delta']:.3f}" if "delta" in row else "reference"
    numbers = [abs(row.get("cosine_shift", 0)), row.get("neighbours_kept", 1), row["ami"], row["v_measure"]]
    return [*(f"{number:.3f}" for number in numbers), change, f"{row['floor']:.3f}"]


def figure_names(results: Results) -> list[dict[str, str]]:
    """For each part, its figures' names without their suffix."""
    several = len(results["parts"]) > 1
    return [
        {kind: f"{kind}-{number}" if several else kind for kind in FIGURES}
        for number in range(1, len(results["parts"]) + 1)
    ]


def files(results: Results) -> list[str]:
    """The files of a report; results.json goes last."""
    figures = [
        f"{name}.{suffix}" for part in figure_names(results) for name in part.values() for suffix in ("png", "svg")
    ]
    return ["results.csv", *figures, "report.md", "report.html", "results.json"]


def write(results: Results, folder: StudyFolder) -> list[str]:
    """Write every file beside its place and put it there when all are whole.

    Returns:
        Their names.

    Raises:
        UserError: The folder cannot be written; what stood there stays.
    """
    makers: dict[str, Callable[[Path], object]] = {"results.csv": partial(_write_csv, results)}
    for part, names in zip(results["parts"], figure_names(results), strict=True):
        for kind, draw in FIGURES.items():
            for suffix in ("png", "svg"):
                makers[f"{names[kind]}.{suffix}"] = partial(draw, part)
    makers["report.md"] = lambda path: path.write_text(markdown(results), encoding="utf-8")
    makers["report.html"] = lambda path: path.write_text(page(results, path.parent), encoding="utf-8")
    makers["results.json"] = lambda path: path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    folder.write(makers)
    return list(makers)


def _write_csv(results: Results, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, CSV_COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for part in results["parts"]:
            about = {"model": part["model"]["name"], "corpus": part["corpus"]["name"]}
            for one in part["tables"]:
                writer.writerows(about | {"layer": one["layer"], "by": one["by"]} | row for row in one["rows"])


def markdown(results: Results) -> str:
    """The report in Markdown, figures named by their files."""
    return _rendered("report.md.jinja", results, autoescape=False)  # it renders Markdown, of our own numbers


def page(results: Results, figures: Path) -> str:
    """The report as one self-contained page.

    Args:
        results: What it says.
        figures: The folder where its SVG figures lie.
    """

    def figure(name: str) -> str:
        svg = (figures / f"{name}.svg").read_text(encoding="utf-8")
        # Two figures of one page must not share names of their parts.
        svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", svg[svg.index("<svg") :])
        return re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)

    return _rendered("report.html.jinja", results, autoescape=True, figure=figure)


def _rendered(template: str, results: Results, autoescape: bool, **more: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("maskpool.bench"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=autoescape,
    )
    environment.filters["markdown_table"] = lambda rows, header: "\n".join(markdown_table(header, rows))
    environment.filters["effect"] = effect
    return environment.get_template(template).render(
        results=results,
        names=figure_names(results),
        arms={name: arm.meaning for name, arm in ARMS.items()} | MIXED,
        clusterers=CLUSTERER_MEANING,
        lead_plan=lead_plan,
        main_table=main_table,
        mixed_table=mixed_table,
        leak_table=leak_table,
        influence_table=influence_table,
        cost_table=cost_table,
        attention_table=attention_table,
        causes=causes,
        effect=effect,
        effect_words=EFFECT,
        headers={
            "main": HEADER,
            "mixed": MIXED_HEADER,
            "leak": LEAK_HEADER,
            "influence": INFLUENCE_HEADER,
            "cost": COST_HEADER,
            "attention": ATTENTION_HEADER,
        },
        excluded=EXCLUDED,
        included=INCLUDED,
        **more,
    )


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| " + " | ".join(header) + " |"
    yield "|" + " --- |" * len(header)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
