"""Compare what pads do to the clusters of two encoders, from the committed studies.

``python -m benchmarks.encoders`` draws ``benchmarks/results/encoders.png``, and ``python -m benchmarks.tables`` writes
the table and sentences of ``docs/findings.md``. Both read ``results.json`` of the studies in `STUDIES`: the primary
family of each encoder and corpus, which is the last layer, k-means and AMI under three padding plans. Nothing is
computed here; every interval is that of its study, simultaneous over the table of that study.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from maskpool.bench.design.treatments import INCLUDED
from maskpool.bench.report.pages import markdown_table
from maskpool.bench.score.intervals import CONFIDENCE
from maskpool.files import atomic_write

RESULTS = Path(__file__).parent / "results"
FIGURE = RESULTS / "encoders.png"
STUDIES = (
    *("banking77", "banking77-l6", "banking77-l3"),
    *("snips", "snips-l6", "snips-l6-128", "snips-l3"),
    *("docstrings", "docstrings-l6", "docstrings-l3"),
)
POOLINGS = ("mean", "weightedmean", "max", "lasttoken", "cls")
# The plans, and how the figure calls them.
PLANS = {"random batches of 32": "random 32", "sorted batches of 32": "sorted 32", "padded to 128": "to 128"}
# Fill and shape say the same as the shade of grey.
_STYLES: tuple[dict[str, Any], ...] = (
    {"marker": "o", "color": "black", "markerfacecolor": "black"},
    {"marker": "s", "color": "#777777", "markerfacecolor": "white"},
)
_VERDICTS = {
    "lowered": "lowered",
    "raised": "raised",
    "no change": "no change larger than {margin:g}",
    "identical": "identical vectors",
    "unknown": "could not tell",
}


@dataclass(frozen=True)
class Effect:
    """The change of AMI by pads under one plan.

    Attributes:
        encoder: The encoder's name, without its folder.
        corpus: The corpus.
        pooling: The mode.
        plan: The padding plan.
        delta: AMI with pads minus AMI without.
        low: Lower end of the interval.
        high: Upper end of the interval.
        kind: The kind of the study's verdict.
        margin: The largest difference that the study calls small.
    """

    encoder: str
    corpus: str
    pooling: str
    plan: str
    delta: float
    low: float
    high: float
    kind: str
    margin: float

    @property
    def verdict(self) -> str:
        """The study's verdict in words."""
        return _VERDICTS[self.kind].format(margin=self.margin)

    @property
    def cell(self) -> str:
        """The effect as a cell of a table; an interval without 0 is bold."""
        if self.kind == "identical":
            return "identical"
        text = f"{self.delta:+.3f} [{self.low:+.3f}, {self.high:+.3f}]".replace("-", "−")
        return f"**{text}**" if self.kind in ("lowered", "raised") else text


def read_effects(names: Iterable[str], results: Path = RESULTS) -> list[Effect]:
    """Return the effects of all comparisons of studies with the treatment "included", last layer and k-means.

    Args:
        names: Folders in ``results``; those that do not exist are left out.
        results: The folder of all results.
    """
    effects = []
    for name in names:
        file = results / name / "results.json"
        if not file.exists():
            continue
        for part in json.loads(file.read_text(encoding="utf-8"))["parts"]:
            (table,) = [table for table in part["tables"] if (table["layer"], table["by"]) == (-1, "kmeans")]
            effects += [
                Effect(
                    encoder=Path(part["model"]["name"]).name,
                    corpus=part["corpus"]["name"],
                    pooling=row["pooling"],
                    plan=row["plan"],
                    delta=row["delta"],
                    low=row["low"],
                    high=row["high"],
                    kind=row["verdict"]["kind"],
                    margin=part["margin"],
                )
                for row in table["rows"]
                if row["treatment"] == INCLUDED and row["pooling"] in POOLINGS and row["plan"] in PLANS
            ]
    return effects


def names_of(effects: Sequence[Effect]) -> tuple[list[str], list[str]]:
    """Return the names of the encoders and of the corpora, in the order of the studies."""
    return list(dict.fromkeys(e.encoder for e in effects)), list(dict.fromkeys(e.corpus for e in effects))


def table(effects: Sequence[Effect]) -> list[str]:
    """Return the table "if your pipeline does this, expect that" in Markdown: a row for each pooling and plan."""
    encoders, corpora = names_of(effects)
    lines = []
    for pooling in POOLINGS:
        for plan in PLANS:
            own = [effect for effect in effects if (effect.pooling, effect.plan) == (pooling, plan)]
            cells = []
            for encoder in encoders:
                for corpus in corpora:
                    effect = next((e for e in own if (e.encoder, e.corpus) == (encoder, corpus)), None)
                    cells.append("not measured" if effect is None else effect.cell)
            lines.append([f"{pooling}, {plan}", counted(own), *cells])
    titles = [f"{encoder}, {corpus}" for encoder in encoders for corpus in corpora]
    return list(markdown_table(("if your pipeline pools", "expect", *titles), lines))


def counted(effects: Sequence[Effect]) -> str:
    """Say how many comparisons have each verdict."""
    ordered = sorted(effects, key=lambda effect: list(_VERDICTS).index(effect.kind))
    counts = Counter(effect.verdict for effect in ordered)
    return ", ".join(f"{verdict} in {count} of {len(effects)}" for verdict, count in counts.items())


def sentences(effects: Sequence[Effect]) -> list[str]:
    """Return one sentence for each pooling: what pads did in all comparisons, with the range of the differences."""
    lines = []
    for pooling in POOLINGS:
        own = [effect for effect in effects if effect.pooling == pooling]
        if not own:
            continue
        if all(effect.kind == "identical" for effect in own):
            lines.append(f"- **{pooling}**: vectors are identical under every plan ({len(own)} comparisons).")
            continue
        parts = []
        for plan in PLANS:
            of_plan = [effect for effect in own if effect.plan == plan]
            if of_plan:
                deltas = [effect.delta for effect in of_plan]
                ends = f"{min(deltas):+.3f} to {max(deltas):+.3f}".replace("-", "−")
                parts.append(f"{plan}, {counted(of_plan)} (ΔAMI {ends})")
        lines.append(f"- **{pooling}**: {'; '.join(parts)}.")
    return lines


def disagreements(effects: Sequence[Effect]) -> list[str]:
    """Return one line for each comparison whose verdicts differ between the encoders."""
    lines = []
    for corpus in names_of(effects)[1]:
        for pooling in POOLINGS:
            for plan in PLANS:
                own = [e for e in effects if (e.corpus, e.pooling, e.plan) == (corpus, pooling, plan)]
                if len({effect.kind for effect in own}) > 1:
                    apart = max(e.low for e in own) > min(e.high for e in own)
                    said = "; ".join(f"{e.encoder} {e.cell.strip('*')}, {e.verdict}" for e in own)
                    words = "the intervals do not overlap" if apart else "the intervals overlap"
                    lines.append(f"- {corpus}, {pooling}, {plan}: {said} ({words}).")
    return lines


def block(results: Path = RESULTS) -> str:
    """Make the block of the documentation: a sentence for each pooling, the table, and every disagreement."""
    effects = read_effects(STUDIES, results)
    return "\n".join(
        [
            *sentences(effects),
            "",
            *table(effects),
            "",
            "Comparisons in which the verdicts of the two encoders differ:",
            "",
            *(disagreements(effects) or ["- none."]),
        ]
    )


def draw(effects: Sequence[Effect], path: Path) -> None:
    """Draw the forest of all effects: a panel for each corpus, a row for each pooling and plan."""
    encoders, corpora = names_of(effects)
    rows = [(pooling, plan) for pooling in POOLINGS for plan in PLANS if pooling != "cls"]
    with mpl.rc_context({"font.size": 8, "axes.linewidth": 0.6, "svg.hashsalt": "encoders"}):
        figure = Figure(figsize=(4.0, 0.9 + 0.19 * len(rows) * len(corpora)), dpi=200, layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(len(corpora), 1, sharex=True, squeeze=False)[:, 0]
        for axes, corpus in zip(panels, corpora, strict=True):
            for place, encoder in enumerate(encoders):
                shown = [e for e in effects if (e.encoder, e.corpus) == (encoder, corpus) and e.pooling != "cls"]
                heights = [rows.index((e.pooling, e.plan)) + 0.36 * place - 0.18 for e in shown]
                deltas = [e.delta for e in shown]
                spans = [[e.delta - e.low for e in shown], [e.high - e.delta for e in shown]]
                style = _STYLES[place]
                axes.errorbar(deltas, heights, xerr=spans, fmt="none", ecolor=style["color"], elinewidth=1)
                axes.plot(deltas, heights, linestyle="none", markersize=3.5, label=encoder, **style)
            axes.axvline(0, color="black", linewidth=0.6)
            axes.set_yticks(range(len(rows)), [f"{pooling}, {PLANS[plan]}" for pooling, plan in rows])
            axes.set_ylim(len(rows) - 0.5, -0.5)
            axes.set_title(corpus, fontsize=8, loc="left")
            for edge in range(len(PLANS), len(rows), len(PLANS)):
                axes.axhline(edge - 0.5, color="#bbbbbb", linewidth=0.5)
        panels[-1].set_xlabel(f"change of AMI by pads, {CONFIDENCE:.0%} intervals")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
        with atomic_write(path) as temporary:
            figure.savefig(temporary)


def main() -> None:
    """Draw the figure."""
    draw(read_effects(STUDIES), FIGURE)
    print(f"written to {FIGURE}")


if __name__ == "__main__":
    main()
