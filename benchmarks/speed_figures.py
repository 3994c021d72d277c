"""Draw the figure of the pooling benchmark: ratios by pooling and layout, and time against padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
from matplotlib import pyplot as plt

# The peer shown for a layout: the host if it has the mode, else hand-written code.
PEERS = {"padded": ("host", "recipe"), "packed": ("host", "loop"), "nested": ("torch.nested", "loop")}
KEYS = ("shape", "dtype", "direction")
COLOURS = {"padded": "#0072b2", "packed": "#d55e00", "nested": "#009e73"}
MARKERS = {"host": "o", "torch.nested": "s", "recipe": "D", "loop": "D"}


def draw(report: dict[str, Any], path: Path) -> None:
    """Draw the rows of the report's first shape, dtype and direction, and its padding rows, into one PNG."""
    shape = report["rows"][0]["shape"]
    rows = [
        row
        for row in report["rows"]
        if (row["shape"], row["dtype"], row["direction"]) == tuple(report["rows"][0][k] for k in KEYS)
    ]
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 6), width_ratios=(3, 2), layout="constrained")
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    for row in rows:
        peer = next(name for name in PEERS[row["layout"]] if name in row["ms"])
        offset = (list(PEERS).index(row["layout"]) - 1) * 0.22
        left.plot(
            row["ms"][peer] / row["ms"]["ours"],
            len(modes) - 1 - modes.index(row["mode"]) - offset,
            marker=MARKERS[peer],
            color=COLOURS[row["layout"]],
            markersize=6,
        )
    for layout, colour in COLOURS.items():
        left.plot([], [], "o", color=colour, label=layout)
    left.plot([], [], "o", color="grey", label="against sentence-transformers")
    left.plot([], [], "s", color="grey", label="against torch.nested")
    left.plot([], [], "D", color="grey", label="against recipe or loop")
    left.axvline(1, color="black", linewidth=0.8)
    left.set_xscale("log")
    left.set_yticks(range(len(modes)), modes[::-1])
    left.grid(axis="x", alpha=0.3)
    left.set_xlabel(f"time of the peer / time of maskpool ({rows[0]['direction']})")
    left.set_title(f"{shape.replace('x', ' × ').replace(':', ', real: ')}, {rows[0]['dtype']}")
    left.legend(fontsize=8, loc="lower right")
    widths = [int(row["shape"].split("x")[1]) for row in report["padding"]]
    for name, label in (("ours", "maskpool"), ("host", "sentence-transformers"), ("recipe", "recipe")):
        right.plot(widths, [row["ms"][name] for row in report["padding"]], "o-", label=label)
    right.set_yscale("log")
    right.set_xlabel(
        f"padded length ({round(widths[0] * report['padding'][0]['real_fraction'])} real tokens a sentence)"
    )
    right.set_ylabel("milliseconds a call")
    right.set_title(f"{report['padding'][0]['mode']}: the same tokens, padded further")
    right.grid(alpha=0.3)
    right.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)
