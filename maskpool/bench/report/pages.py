"""Output of results: the screen, results.json, results.csv, figures, report.md and report.html."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
from rich import box
from rich.console import Group
from rich.table import Table

from maskpool.bench.design.clusterers import CLUSTERERS
from maskpool.bench.design.treatments import INCLUDED, MIXED, NOISE, TREATMENTS
from maskpool.bench.report.figures import FIGURES
from maskpool.bench.report.results import (
    Results,
    about_corpus,
    about_unmeasured,
    lead_plan,
    main_table_of,
    naming_cells,
    of_layer,
    of_table,
)
from maskpool.bench.report.verdicts import difference, kept_of, shift_of, short, signed
from maskpool.bench.store.folder import StudyFolder

CSV_COLUMNS = (
    *("model", "corpus", "layer", "by", "pooling", "plan", "treatment", "leak", "texts", "cosine_shift"),
    *("cosine_shift_p95", "cosine_shift_max", "length_ratio", "neighbours_kept", "shift_by_padding"),
    *("length_ami", "metric", "ami", "ari", "v_measure", "homogeneity", "completeness", "accuracy", "reference"),
    *("delta", "low", "high", "standard_error", "floor", "margin", "verdict", "sentence", "texts_needed"),
    "seeds_needed",
)
# The verdict comes second, next to the name of the row, to be seen on a narrow screen.
VERDICT_HEADER = (
    *("pooling", "plan", "verdict", "ΔAMI [95 %]", "AMI alone"),
    *("AMI padded", "cosine shift", "neighbours kept", "pads", "floor"),
)
HEADER = (
    *("pooling", "plan", "treatment", "verdict", "ΔAMI [95 %]", "AMI"),
    *("ARI", "V", "cosine shift", "neighbours kept", "floor", "texts"),
)
MIXED_HEADER = ("pooling", "plan", "pipeline", "verdict", "Δ [95 %]", "score", "both alone", "mixed", "floor")
LEAK_HEADER = ("leak", "re-creates", "plan", "verdict", "ΔAMI [95 %]", "AMI", "cosine shift", "floor")
BATCH_EFFECT_HEADER = (
    "pooling",
    "plan",
    "only by batch",
    "only by seed",
    "fixed clusters, by batch",
    "neighbours kept",
)
COST_HEADER = ("plan", "how it happens", "tokens", "pads", "label AMI", "encoder seconds")
LEARNED_HEADER = ("pooling", "trained / served", "verdict", "ΔAMI [95 %]", "AMI", "floor", "weight on pads")
# Columns of words; the other columns are aligned right.
WORDS = (*HEADER[:4], "pipeline", "score", *LEAK_HEADER[:2], "how it happens", "trained / served")
INTRODUCTION = (
    "The texts of a batch are padded to one length. If the pads are pooled as well, vectors and clusters may change."
)
_HEADLINE_WORDS = (
    "AMI says how well clusters agree with labels: 1 fully, 0 as by chance. A change of at most {margin:g} counts as "
    "small: the margin. Brackets hold 95 % intervals. A plan, named in quotes, is a way to batch and pad texts."
)
# Other words of headlines, which are explained only where they occur.
_FIRST_WORDS = {
    "harmed": "Harmed: AMI is lower, and the interval does not contain 0.",
    "raised": "Raised: AMI is higher, and the interval does not contain 0.",
    "could not tell": "The study could not tell if the interval contains 0 and ends beyond the margin.",
    "would settle": "What would settle it does so if the difference stays the same.",
    "identical": "Identical: the vectors are those of the texts alone, without pads.",
    "confounded": "Confounded: the padded length depends on the label, so a part of the difference may come from that.",
    "“sorted batches": "Sorted batches: texts are sorted by their number of characters.",
}
VECTOR_WORDS = (
    "Vectors: cosine shift is 1 − cosine to the vector of the text alone; neighbours kept is the share of the 10 "
    "nearest neighbours with or without pads that are in both."
)
TERMS = {
    "alone, excluded": "each text alone, without pads: what every difference is taken from; pads excluded from the "
    "pooling give the same",
    "padded, included": "the pads are pooled as if they were tokens of the text",
    "plan": "how texts are batched and padded; “any”: every plan under which pads do not change the real tokens",
    "confounded": "the padded length depends on the label under this plan, so a part of its difference may come from "
    "that",
    "lowered, raised": "the interval of the difference does not contain 0; harmed: AMI is lowered",
    "no change above margin": "the interval contains 0, and all of it is inside the margin",
    "could not tell": "the interval contains 0 and ends beyond the margin: there may be a harm of that size or none; "
    "more texts or seeds settle it if the difference stays the same",
    "identical": "the vectors are those of the texts alone",
    "cosine shift": "how far vectors move: the mean of 1 − cosine to the vector of the same text alone",
    "neighbours kept": "the share of a text's 10 nearest neighbours with or without pads that are in both "
    "(Jaccard index), averaged over texts; 1: all neighbours are kept",
    "AMI, ARI, V": "adjusted mutual information, adjusted Rand index and V-measure of clusters and labels; 1 is "
    "complete agreement, and chance gives 0 in the first two",
    "Δ [95 %]": "the difference from the same texts alone, with an interval that holds for all rows of its table at "
    "once",
    "label AMI": "AMI of the labels and the padded lengths; above 0.02 the plan is confounded",
    "floor": "how far two runs with pads excluded differ in 95 of 100 cases only by seeds and the order of texts; it "
    "decides nothing",
    "TF-IDF, length deciles": "scores of clusters of TF-IDF vectors, and of clusters by the texts' lengths only",
}
_AGAINST_NOISE = {
    "lowered": "the pads are worse than random noise that moves the vectors as far.",
    "raised": "the pads are better than random noise that moves the vectors as far.",
    "no change": "the pads are like random noise that moves the vectors as far.",
    "unknown": "random noise that moves the vectors as far may do the same.",
}
_METRICS = ("ami", "ari", "v_measure")
_QUOTED = 200  # characters of a text, enough to see what it is about


def headline_words(results: Results) -> str:
    """Explain the words that the headlines use."""
    headlines = " ".join(
        sentence for part in results["parts"] for name in ("headline", "shift_headline") for sentence in part[name]
    )
    used = [meaning for word, meaning in _FIRST_WORDS.items() if word in headlines]
    return " ".join([_HEADLINE_WORDS.format(**results["study"]), *used])


def label_amis(part: Results) -> str:
    """Say for every plan how far the padded lengths depend on the labels."""
    plans = [
        f"{_label_ami(plan)} under “{plan['name']}”"
        for plan in part["plans"]
        if not plan["for_leaks_alone"] and "label_width_ami" in plan
    ]
    return f"AMI of labels and padded lengths: {'; '.join(plans)}." if plans else ""


def verdict_table(part: Results, part_table: Results) -> list[list[str]]:
    """Format the rows with pads included as text: one row for each pooling and plan."""
    plans = {plan["name"]: plan for plan in part["plans"]}
    return [
        [
            row["pooling"],
            row["plan"] + ", confounded" * bool(plans[row["plan"]].get("confounded")),
            short(row, part["margin"]),
            difference(row),
            f"{row['reference']:.3f}",
            f"{row['ami']:.3f}",
            *_shift(row),
            f"{plans[row['plan']]['pad_fraction']:.0%}",
            f"{row['floor']:.3f}",
        ]
        for row in part_table["rows"]
        if row["treatment"] == INCLUDED and "recreates" not in row
    ]


def main_table(part: Results, part_table: Results) -> list[list[str]]:
    """Format every row of a clusterer's table as text, with the scores of trivial methods below."""
    rows = [
        [
            row["pooling"],
            row["plan"],
            row["treatment"],
            *_verdict_cells(row, part["margin"]),
            *(f"{row[metric]:.3f}" for metric in _METRICS),
            *_shift(row),
            f"{row['floor']:.3f}",
            str(row["texts"]),
        ]
        for row in part_table["rows"]
    ]
    for name, baseline in (("TF-IDF", "tfidf"), ("length deciles", "length_deciles")):
        scores = [f"{part['baselines'][baseline][metric]:.3f}" for metric in _METRICS]
        rows.append([name, "", "baseline", "", "", *scores, "", "", "", str(part["corpus"]["texts"])])
    return rows


def mixed_table(part: Results, part_table: Results) -> list[list[str]]:
    """Format the table of mixed plans as text."""
    return [
        [
            row["pooling"],
            row["plan"],
            row["treatment"],
            *_verdict_cells(row, part["margin"]),
            row["metric"],
            f"{row['reference']:.3f}",
            f"{row['reference'] + row['delta']:.3f}",
            f"{row['floor']:.3f}",
        ]
        for row in part_table["rows"]
        if "delta" in row
    ]


def _verdict_cells(row: Results, margin: float) -> list[str]:
    return [short(row, margin), difference(row)] if "delta" in row else ["reference", ""]


def _shift(row: Results) -> list[str]:
    return [shift_of(row), kept_of(row)]


def leak_table(part: Results) -> list[list[str]]:
    """Format the table of public bugs, plan by plan."""
    return [
        [
            row["leak"] + of_table(main_table_of(part)),
            row["recreates"],
            row["plan"],
            *_verdict_cells(row, part["margin"]),
            f"{row['ami']:.3f}",
            shift_of(row),
            f"{row['floor']:.3f}",
        ]
        for row in sorted(main_table_of(part)["rows"], key=lambda row: row.get("leak", ""))
        if "leak" in row
    ]


def batch_effect_table(part: Results) -> list[list[str]]:
    """Format the shares of texts that change cluster by their batch and by the seed."""
    return [
        [
            row["pooling"] + of_layer(row),
            row["plan"],
            f"{row['by_batch']:.1%}",
            f"{row['by_seed']:.1%}",
            f"{row['by_batch_fixed_clusters']:.1%}",
            kept_of(row),
        ]
        for row in part["batch_effect"]
    ]


def cost_table(part: Results) -> list[list[str]]:
    """Format the cost of padding in tokens and seconds."""
    return [
        [
            plan["name"],
            plan["happens"],
            f"{plan['tokens']:,}",
            f"{plan['pad_fraction']:.0%}",
            _label_ami(plan),
            f"{plan['seconds']:.1f}",
        ]
        for plan in part["plans"]
        if not plan["for_leaks_alone"]
    ]


def _label_ami(plan: Results) -> str:
    """Format the AMI of the labels and the padded lengths."""
    if "label_width_ami" not in plan:
        return ""
    return f"{signed(plan['label_width_ami'])}{', confounded' * plan['confounded']}"


def learned_table(part: Results) -> list[list[str]]:
    """Format the 2 × 2 table of each learned pooling: with and without the mask in training and serving."""
    return [
        [
            row["pooling"],
            f"{row['trained']} / {row['served']}",
            *(
                ["reference", ""]
                if row["trained"] == row["served"] == "with mask"
                else _verdict_cells(row, part["margin"])
            ),
            f"{row['ami']:.3f}",
            f"{row['floor']:.3f}",
            f"{row['attention_on_pads']:.1%}",
        ]
        for row in part["learned"]["rows"]
    ]


def table_title(part_table: Results) -> str:
    """Return the title of a table."""
    return ("Mixed plans" if part_table["by"] == "mixed" else f"Clusters: {part_table['by']}") + of_layer(part_table)


def sections(part: Results) -> dict[str, str]:
    """Return the headings of the report's sections on a part, by their names in links."""
    main = main_table_of(part)
    tables = {f"table-{number}": table_title(rows) for number, rows in enumerate(part["tables"], start=1)}
    every = (
        ("plans", f"Plan by plan{of_table(main)}", verdict_table(part, main)),
        ("dose", "How far texts and clusters move", main["rows"]),
        ("forest", "Differences with their intervals", main["rows"]),
        *((name, title, True) for name, title in tables.items()),
        ("why", "Why", causes(part)),
        ("leaks", "Public padding bugs", leak_table(part)),
        ("batch-effects", "Batch effects", part["batch_effect"]),
        ("cost", "What padding costs", True),
        ("learned", "Learned poolings", part["learned"]),
    )
    return {name: title for name, title, content in every if content}


def used_treatments(results: Results) -> dict[str, str]:
    """Return what each treatment of the tables pools, in words."""
    tables = [part_table for part in results["parts"] for part_table in part["tables"]]
    used = {row["treatment"] for part_table in tables for row in part_table["rows"]}
    meanings = {name: treatment.meaning for name, treatment in TREATMENTS.items()} | MIXED
    return {name: meaning for name, meaning in meanings.items() if name in used}


def causes(part: Results) -> dict[str, list[str]]:
    """Write sentences on the cause of the effect for each pooling, from its treatments."""
    causes_of = {}
    main, lead = main_table_of(part), lead_plan(part["plans"])
    for pooling in dict.fromkeys(row["pooling"] for row in main["rows"]):
        rows = {row["treatment"]: row for row in main["rows"] if (row["pooling"], row["plan"]) == (pooling, lead)}
        sentences = [
            treatment.sentence.format(**rows[name], difference=difference(rows[name]))
            for name, treatment in TREATMENTS.items()
            if treatment.sentence and name in rows
        ]
        if NOISE in rows and INCLUDED in rows:
            against = rows[INCLUDED]["against_noise"]
            sentences.append(
                f"Noise that moves each text just as far gives Δ {difference(rows[NOISE])}, and the pads give "
                f"{difference(rows[INCLUDED])}; pads minus noise is {difference(against)}; "
                + _AGAINST_NOISE[against["verdict"]["kind"]]
            )
        if sentences:
            causes_of[f"{pooling}{of_table(main)}, {lead}"] = sentences
    return causes_of


def part_title(part: Results) -> str:
    """Name a part and its number of texts, and mark a demonstration."""
    corpus = part["corpus"]
    demonstration = " (a demonstration, not a finding)" if corpus["demonstration"] else ""
    return (
        f"{part['model']['name']} on {corpus['name']}{of_table(main_table_of(part))}, {corpus['texts']:,} texts, "
        f"{corpus['labels']} labels{demonstration}"
    )


def show(results: Results) -> Group:
    """Make what a terminal shows: the verdicts in words, then a row for each pooling and plan; files hold the rest."""
    shown: list[Table | str] = [INTRODUCTION, *results["notes"]]
    for number, part in enumerate(results["parts"]):
        words = [headline_words(results)] if not number else []
        shown += ["", part_title(part), "", part["advice"], *words, *(f"• {sentence}" for sentence in part["headline"])]
        if part["shift_headline"]:
            shown += [VECTOR_WORDS, *(f"• {sentence}" for sentence in part["shift_headline"])]
    for part in results["parts"]:
        for part_table in part["tables"]:
            mixed = part_table["by"] == "mixed"
            title = f"{part['model']['name']} on {part['corpus']['name']}, {table_title(part_table)}"
            narrow = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
            header, rows = (
                (MIXED_HEADER[:5], mixed_table(part, part_table))
                if mixed
                else (VERDICT_HEADER[:6], verdict_table(part, part_table))
            )
            for name in header:
                narrow.add_column(name, overflow="fold", justify="left" if name in WORDS else "right")
            for number, row in enumerate(rows):
                if number and rows[number - 1][0] != row[0]:
                    narrow.add_section()
                narrow.add_row(*row[: len(header)])
            if rows:
                shown += ["", narrow]
        shown.append(label_amis(part))
    return Group(*shown)


def figure_names(results: Results) -> list[dict[str, str]]:
    """Return the names of each part's figures without their suffix."""
    several = len(results["parts"]) > 1
    return [
        {kind: f"{kind}-{number}" if several else kind for kind in FIGURES}
        for number in range(1, len(results["parts"]) + 1)
    ]


def files(results: Results) -> list[str]:
    """List the files of a report; results.json is written last."""
    figures = [
        f"{name}.{suffix}" for part in figure_names(results) for name in part.values() for suffix in ("png", "svg")
    ]
    return ["results.csv", *figures, "report.md", "report.html", "results.json"]


def write(results: Results, folder: StudyFolder) -> list[str]:
    """Write every file of the report to a temporary folder, and move them into place once all are complete.

    Returns:
        The names of the files.

    Raises:
        StorageError: The folder cannot be written; existing files are kept.
    """
    makers: dict[str, Callable[[Path], object]] = {"results.csv": partial(_write_csv, results)}
    for part, names in zip(_shown(results["parts"]), figure_names(results), strict=True):
        for kind, draw in FIGURES.items():
            for suffix in ("png", "svg"):
                makers[f"{names[kind]}.{suffix}"] = partial(_draw, draw, part)
    makers["report.md"] = lambda path: path.write_text(markdown(results), encoding="utf-8")
    makers["report.html"] = lambda path: path.write_text(page(results, path.parent), encoding="utf-8")
    makers["results.json"] = lambda path: path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    with naming_cells(folder):
        folder.write(makers)
    return list(makers)


def _shown(value: Any) -> Any:
    """Remove control characters, which fonts do not have, from all strings."""
    if isinstance(value, dict):
        return {_shown(name): _shown(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_shown(inner) for inner in value]
    return _line(value) if isinstance(value, str) and not value.isprintable() else value


def _draw(draw: Callable[[Results, Path], None], part: Results, path: Path) -> None:
    with mpl.rc_context({"text.parse_math": False}):  # names may have dollar signs
        draw(part, path)


def _write_csv(results: Results, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, CSV_COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for part in results["parts"]:
            about = {"model": part["model"]["name"], "corpus": part["corpus"]["name"], "margin": part["margin"]}
            for part_table in part["tables"]:
                of_table_cells = about | {"layer": part_table["layer"], "by": part_table["by"]}
                for row in part_table["rows"]:
                    verdict = row.get("verdict", {})
                    writer.writerow(of_table_cells | row | verdict | {"verdict": verdict.get("kind", "")})


def markdown(results: Results) -> str:
    """Render the report in Markdown, with links to the files of the figures."""
    return _rendered("report.md.jinja", results, autoescape=False, finalize=_escaped)  # it renders Markdown, not HTML


def page(results: Results, figures: Path) -> str:
    """Render the report as one self-contained page.

    Args:
        results: The results.
        figures: The folder of the SVG figures.
    """

    def figure(name: str, says: str) -> str:
        svg = (figures / f"{name}.svg").read_text(encoding="utf-8")
        # The ids in two figures of one page must differ.
        svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", svg[svg.index("<svg") :])
        width = re.search(r'width="([\d.]+)pt"', svg)
        assert width is not None, "a figure has a width"
        # The letters stay readable, and at most as large as the text around the figure.
        size = f"min-width: {float(width[1]):.0f}px; max-width: {1.5 * float(width[1]):.0f}px"
        svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
        return svg.replace("<svg", f'<svg role="img" aria-label="{says}" style="{size}"', 1)

    return _rendered("report.html.jinja", results, autoescape=True, figure=figure)


class _Markdown(str):
    """Markdown whose values are already escaped."""

    __slots__ = ()


def _escaped(value: object) -> str:
    """Escape a value of the results, which may come from somebody else, as one line of Markdown."""
    if isinstance(value, _Markdown):
        return value
    # Brackets are markup only before a parenthesis, a bracket or a colon, and underscores only at the edge of a word.
    return _Markdown(re.sub(r"([\\`*<>|#&~]|(?<!\w)_|_(?!\w)|\](?=[(\[:]))", r"\\\1", _line(value)))


def _code(value: object) -> _Markdown:
    """Put a value between backticks, where a backslash does not escape."""
    return _Markdown("`" + _line(value).replace("`", "'").replace("|", r"\|") + "`")


def _line(value: object) -> str:
    """Remove line breaks and control characters from a value."""
    return re.sub(r"\s+", " ", "".join(letter if letter.isprintable() else " " for letter in str(value)))


def _markdown_cells(rows: Sequence[Sequence[str]], header: Sequence[str]) -> _Markdown:
    escaped = [[_escaped(cell) for cell in row] for row in rows]
    return _Markdown("\n".join(markdown_table([_escaped(name) for name in header], escaped)))


def _rendered(
    template: str, results: Results, autoescape: bool, finalize: Callable[[Any], Any] | None = None, **more: Any
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("maskpool.bench.report"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=autoescape,
        finalize=finalize,
    )
    environment.filters["markdown_table"] = _markdown_cells
    environment.filters["code"] = _code
    environment.filters["markdown"] = _Markdown
    environment.filters["shortened"] = shortened
    # Keep an interval on one line.
    environment.filters["unbroken"] = lambda text: re.sub(
        r" (?=\[[−+\d<])|(?<=\d,) (?=[−+\d])(?=[^\[]*\])", "\u00a0", text
    )
    return environment.get_template(template).render(
        results=results,
        names=figure_names(results),
        treatments=used_treatments(results),
        introduction=INTRODUCTION,
        headline_words=headline_words(results),
        terms=TERMS,
        sections=sections,
        part_title=part_title,
        table_title=table_title,
        main_table_of=main_table_of,
        clusterers={name: clusterer.meaning for name, clusterer in CLUSTERERS.items()},
        verdict_table=verdict_table,
        main_table=main_table,
        about_corpus=about_corpus,
        about_unmeasured=about_unmeasured,
        vector_words=VECTOR_WORDS,
        mixed_table=mixed_table,
        leak_table=leak_table,
        batch_effect_table=batch_effect_table,
        cost_table=cost_table,
        learned_table=learned_table,
        causes=causes,
        of_layer=of_layer,
        words=WORDS,
        headers={
            "verdict": VERDICT_HEADER,
            "main": HEADER,
            "mixed": MIXED_HEADER,
            "leak": LEAK_HEADER,
            "batch_effect": BATCH_EFFECT_HEADER,
            "cost": COST_HEADER,
            "learned": LEARNED_HEADER,
        },
        **more,
    )


def shortened(text: str) -> str:
    """Return the beginning of a text on one line.

    Example:
        >>> shortened("two  spaces"), len(shortened("long " * 100))
        ('two spaces', 201)
    """
    line = " ".join(text.split())
    return line if len(line) <= _QUOTED else line[:_QUOTED].rstrip() + " …"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield "| " + " | ".join(header) + " |"
    yield "|" + " --- |" * len(header)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
