"""The figures of the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from maskpool.bench.run import Results

# Okabe and Ito's colours, which people with any colour vision tell apart; shapes say it again.
_STYLE: dict[str, dict[str, Any]] = {
    "included": {"color": "#D55E00", "marker": "o", "label": "pads included"},
    "pads only": {"color": "#0072B2", "marker": "s", "label": "pads only"},
    "noise": {"color": "#7f7f7f", "marker": "^", "label": "noise of the same cosine"},
}
_PLAN_COLOURS = ("#009E73", "#CC79A7", "#D55E00")


def draw_quality(results: Results, path: Path) -> None:
    """Quality against plan: each arm's difference in AMI to the excluded arm, with its interval."""
    modes = _modes(results)
    figure, panels = _panels(max(len(modes), 1))
    plans = [plan["name"] for plan in results["plans"]]
    for mode, axes in zip(modes, panels, strict=False):
        rows = [row for row in results["rows"] if row["pooling"] == mode]
        reference = rows[0]
        axes.axhspan(-reference["floor"], reference["floor"], color="0.9", label="floor: seeds alone")
        axes.axhline(0, color="0.4", linewidth=1)
        for shift, (arm, style) in zip((-0.15, 0.0, 0.15), _STYLE.items(), strict=True):
            points = [(plans.index(row["plan"]) + shift, row) for row in rows if row["arm"] == arm]
            x = [place for place, _ in points]
            y = [row["delta"] for _, row in points]
            error = [
                [row["delta"] - row["low"] for _, row in points],
                [row["high"] - row["delta"] for _, row in points],
            ]
            axes.errorbar(x, y, yerr=error, linestyle="none", capsize=3, **style)
        axes.set_xticks(range(len(plans)), [plan.replace(" batches", "\nbatches") for plan in plans])
        axes.set_xlim(-0.5, len(plans) - 0.5)
        axes.set_title(f"{mode}: AMI {reference['ami']:.3f} with pads excluded")
        axes.set_ylabel("ΔAMI to pads excluded, 95 % interval")
    _finish(figure, panels, results, path, "what pads do to clusters")


def draw_shift(results: Results, path: Path) -> None:
    """Cosine shift of the included arm against the share of pads: mean, and 5 to 95 % of the texts."""
    modes = _modes(results)
    figure, panels = _panels(max(len(modes), 1))
    for mode, axes in zip(modes, panels, strict=False):
        rows = [row for row in results["rows"] if row["pooling"] == mode and "by_pad_fraction" in row]
        for colour, row, marker in zip(_PLAN_COLOURS, rows, "osD", strict=False):
            bins = row["by_pad_fraction"]
            x = [one["pad_fraction"] for one in bins]
            axes.fill_between(x, [one["p5"] for one in bins], [one["p95"] for one in bins], color=colour, alpha=0.2)
            axes.plot(x, [one["mean"] for one in bins], color=colour, marker=marker, label=row["plan"])
        axes.set_title(mode)
        axes.set_xlabel("share of positions that are pads")
        axes.set_ylabel("1 − cosine to pads excluded\n(mean; band: 5 to 95 % of texts)")
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(bottom=0)
    _finish(figure, panels, results, path, "how far pads move an embedding")


def _modes(results: Results) -> list[str]:
    return list(dict.fromkeys(row["pooling"] for row in results["rows"]))


def _panels(number: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(1.0 + 5.2 * number, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(1, number, place + 1) for place in range(number)]


def _finish(figure: Figure, panels: list[Axes], results: Results, path: Path, title: str) -> None:
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    prefix = "Demonstration: " if results["demonstration"] else ""
    corpus = f"{results['corpus']['name']} ({results['corpus']['texts']} texts), {results['model']['name']}"
    figure.suptitle(f"{prefix}{title}\n{corpus}", fontsize="medium")
    figure.savefig(path, dpi=150)
