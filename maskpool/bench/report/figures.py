"""The figures of the report, as PNG and as SVG."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from maskpool.bench.design.treatments import INCLUDED, TREATMENTS
from maskpool.bench.report.results import Results, main_table_of, of_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which people with any colour vision can distinguish, and grey. The numbers of colours and of
# markers have no common divisor, so the first 56 styles differ.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#888888", "#56B4E9")
_MARKERS = "osDv<^XP"
# Placeholder for the text colour in SVG, which the page sets to light or dark.
_INK = "#010203"


def _style(number: int) -> dict[str, Any]:
    """Return the colour and the marker of one of several things in a figure."""
    return {"color": _COLOURS[number % len(_COLOURS)], "marker": _MARKERS[number % len(_MARKERS)]}


# From -1, because the first treatment is the reference, which few figures show.
_TREATMENT_STYLES = {treatment: _style(number) for number, treatment in enumerate(TREATMENTS, start=-1)}


def draw_forest(part: Results, path: Path) -> None:
    """Draw the ΔAMI of each treatment with its interval, the margin and the floor, grouped by pooling and plan."""
    rows = [row for row in main_table_of(part)["rows"] if "delta" in row]
    poolings = {
        mode: dict.fromkeys(row["plan"] for row in rows if row["pooling"] == mode)
        for mode in dict.fromkeys(row["pooling"] for row in rows)
    }
    lines = [len(plans) + sum(row["pooling"] == mode for row in rows) for mode, plans in poolings.items()]
    heights = [count + 1.5 for count in lines] or [4.0]
    figure, panels = _panels((len(heights), 1), 5.8, 0.9 + 0.21 * sum(heights) + 0.3 * len(heights), heights, "all")
    for (mode, plans), axes in zip(poolings.items(), panels, strict=False):
        mode_rows = [row for row in rows if row["pooling"] == mode]
        # The floor of all texts; a treatment may score only some of them.
        floor = max(mode_rows, key=lambda row: row["texts"])["floor"]
        _mark_margin(axes, part)
        for end in (-floor, floor):
            axes.axvline(end, color=_INK, linewidth=0.8, linestyle=":")
        labels = []
        for plan in plans:
            labels.append(plan)
            for row in (row for row in mode_rows if row["plan"] == plan):
                axes.errorbar(
                    row["delta"],
                    -len(labels),
                    xerr=[[row["delta"] - row["low"]], [row["high"] - row["delta"]]],
                    linestyle="none",
                    capsize=3,
                    markerfacecolor="none" if row["verdict"]["kind"] == "unknown" else None,
                    **_TREATMENT_STYLES[row["treatment"]],
                )
                labels.append(row["treatment"])
        axes.set_yticks([-place for place in range(len(labels))], labels)
        for label in axes.get_yticklabels():
            if label.get_text() in plans:
                label.set_fontweight("bold")
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labelbottom=True)
        axes.set_ylim(0.7 - len(labels), 0.7)
        axes.set_title(mode)
    panels[-1].set_xlabel(
        f"ΔAMI to only real tokens, simultaneous 95 % intervals\n(band: margin of {part['margin']:g}; dotted: floor)"
    )
    _finish(figure, panels, part, path)


def draw_dose(part: Results, path: Path) -> None:
    """Draw how far texts move by their share of pads under the plan that pads most, and the ΔAMI of each plan."""
    rows = [row for row in main_table_of(part)["rows"] if row["treatment"] == INCLUDED]
    fraction = {plan["name"]: plan["pad_fraction"] for plan in part["plans"]}
    plans = sorted({row["plan"] for row in rows}, key=lambda plan: (fraction[plan], plan))
    poolings = list(dict.fromkeys(row["pooling"] for row in rows))
    figure, (left, right) = _panels((1, 2), 9.0, max(4.2, 1.2 + 0.25 * len(plans) * len(poolings)))
    _mark_margin(right, part)
    for number, mode in enumerate(poolings):
        style = _style(number)
        row_of = {row["plan"]: row for row in rows if row["pooling"] == mode}
        # The plan that pads most has texts in every bin.
        bins = row_of[max(row_of, key=plans.index)]["by_pad_fraction"]
        x, low, high, mean = ([row[name] for row in bins] for name in ("pad_fraction", "p5", "p95", "mean"))
        left.fill_between(x, low, high, color=style["color"], alpha=0.18, linewidth=0)
        left.plot(x, mean, label=mode, **style)
        for plan, row in row_of.items():
            right.errorbar(
                row["delta"],
                plans.index(plan) - 0.6 * (number + 1) / (len(poolings) + 1) + 0.3,
                xerr=[[row["delta"] - row["low"]], [row["high"] - row["delta"]]],
                linestyle="none",
                capsize=3,
                markerfacecolor="none" if row["verdict"]["kind"] == "unknown" else None,
                **style,
            )
    left.set_title("how far a text moves" + (f",\n{plans[-1]}" if plans else ""))
    left.set_xlabel("share of the text's positions that are pads")
    left.set_ylabel("1 − cosine to only real tokens\n(mean; band: 5 to 95 % of texts)")
    left.set_xlim(-0.02, 1.02)
    left.set_ylim(bottom=0)
    right.set_title("how the clusters change,\nby plan")
    right.set_yticks(range(len(plans)), [f"{textwrap.fill(plan, 26)}\n({fraction[plan]:.0%} pads)" for plan in plans])
    right.set_ylim(-0.5, max(len(plans), 1) - 0.5)
    right.set_xlabel(f"ΔAMI, pads included\n(95 % intervals; band: margin of {part['margin']:g})")
    _finish(figure, [left, right], part, path, legend=left)


def _mark_margin(axes: Axes, part: Results) -> None:
    axes.axvspan(-part["margin"], part["margin"], color="#888888", alpha=0.2, linewidth=0)
    axes.axvline(0, color=_INK, linewidth=0.8)


FIGURES = {"forest": draw_forest, "dose": draw_dose}


def _panels(
    grid: tuple[int, int],
    width: float,
    height: float,
    heights: Sequence[float] = (1.0,),
    sharex: Literal["none", "all"] = "none",
) -> tuple[Figure, list[Axes]]:
    with mpl.rc_context(
        {
            "text.color": _INK,
            "axes.labelcolor": _INK,
            "axes.edgecolor": _INK,
            "xtick.color": _INK,
            "ytick.color": _INK,
        }
    ):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(*grid, squeeze=False, sharex=sharex, gridspec_kw={"height_ratios": heights})
        return figure, list(panels.flat)


def _finish(figure: Figure, panels: list[Axes], part: Results, path: Path, legend: Axes | None = None) -> None:
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.patch.set_alpha(0)
    if legend is not None:
        handles, labels = legend.get_legend_handles_labels()
        if handles:
            figure.legend(
                handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, labelcolor=_INK
            )
    corpus = f"{part['corpus']['name']} ({part['corpus']['texts']} texts), {part['model']['name']}"
    corpus += of_table(main_table_of(part))
    prefix = "Demonstration: " if part["corpus"]["demonstration"] else ""
    figure.suptitle(
        textwrap.fill(prefix + corpus, int(11 * figure.get_figwidth())), fontsize="medium", color=_INK, parse_math=False
    )
    if path.suffix == ".png":
        figure.savefig(path, dpi=130)
        return
    # Keep text as text, and write equal files for equal results.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "maskpool"}):
        figure.savefig(path, transparent=True, metadata={"Date": None})
    path.write_text(path.read_text(encoding="utf-8").replace(_INK, "currentColor"), encoding="utf-8")
