"""Write the numbers of README.md from the committed results, so that neither is typed by hand.

``python benchmarks/readme.py`` rewrites the blocks between their comments.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from maskpool.bench.report import ATTENTION_HEADER, HEADER, attention_table, markdown_table, table

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def demonstration(results: dict[str, Any]) -> str:
    """The tables and the figure of the default run."""
    dropped = {HEADER.index("texts"), HEADER.index("ARI")}
    header = tuple(name for place, name in enumerate(HEADER) if place not in dropped)
    rows = [[cell for place, cell in enumerate(row) if place not in dropped] for row in table(results)]
    corpus, attention, settings = results["corpus"], results["attention"], results["settings"]
    return "\n".join(
        [
            f"{corpus['texts']} texts, {corpus['labels']} labels, {settings['seeds']} k-means seeds, intervals over "
            f"{settings['replicates']} half-samples, simultaneous over the table; floor: how far two runs of the "
            "excluded arm differ by seeds alone.",
            "",
            *markdown_table(header, rows),
            "",
            "![ΔAMI of each arm, by plan](benchmarks/results/docstrings/quality.png)",
            "",
            f"An attention head, trained on half of the classes with states padded to {attention['width']}, clustering "
            f"the other half ({attention['head_seeds']} head seeds, mean ± standard deviation):",
            "",
            *markdown_table(ATTENTION_HEADER, attention_table(results)),
        ]
    )


DTYPE_NAMES = ("float32", "bfloat16", "float16")


def speed(results: dict[str, Any]) -> str:
    """The short table of the pooling benchmark: its first shape, forward, and what it was measured on."""
    rows, environment, padding = results["rows"], results["environment"], results["padding"]
    shape = rows[0]["shape"]
    found = {
        (row["mode"], row["layout"], row["dtype"]): row["ms"]
        for row in rows
        if (row["shape"], row["direction"]) == (shape, "forward")
    }
    columns = [
        ("padded", "host", "sentence-transformers"),
        ("padded", "recipe", "recipe"),
        ("padded", "compiled recipe", "compiled recipe (float32)"),
        ("packed", "host", "sentence-transformers, flat"),
        ("packed", "loop", "loop, packed"),
        ("nested", "torch.nested", "torch.nested"),
    ]
    lines = []
    for mode in dict.fromkeys(row["mode"] for row in rows):
        cells = [_ratios(found, mode, layout, peer) for layout, peer, _ in columns]
        lines.append([mode if "," in mode else f"`{mode}`", *cells])
    size, fraction = shape.split(":")
    times = [row["ms"]["ours"] for row in padding]
    return "\n".join(
        [
            f"How many times as long as maskpool each peer takes, {' / '.join(DTYPE_NAMES)}; batches of "
            f"{size.replace('x', ' × ')} with {float(fraction):.0%} real tokens, forward, checks and preparation "
            f"included; sentence-transformers {environment['sentence-transformers']}, torch {environment['torch']}, in "
            f"one process, in turn, on {environment['threads']} threads:",
            "",
            *markdown_table(("pooling", *(title for _, _, title in columns)), lines),
            "",
            f"At the same real tokens, mean pooling takes {times[-1] / times[0]:.2f} times as long at "
            f"{1 - padding[-1]['real_fraction']:.0%} padding as at none.",
            "",
            "![Ratios by pooling and layout, and time against padding](benchmarks/results/pooling_speed.png)",
        ]
    )


def _ratios(found: dict[tuple[str, str, str], dict[str, float]], mode: str, layout: str, peer: str) -> str:
    """A peer's time over ours in each dtype, as one cell; empty where the peer does not do the job."""
    times = [found.get((mode, layout, dtype), {}) for dtype in DTYPE_NAMES]
    ratios = [ms[peer] / ms["ours"] for ms in times if peer in ms]
    return " / ".join(f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}" for ratio in ratios)


BLOCKS: dict[str, tuple[Path, Callable[[dict[str, Any]], str]]] = {
    "demonstration": (RESULTS / "docstrings" / "results.json", demonstration),
    "speed": (RESULTS / "pooling_speed.json", speed),
}


def rewritten(text: str) -> str:
    """``text`` with every block made anew."""
    for name, (path, make) in BLOCKS.items():
        made = make(json.loads(path.read_text(encoding="utf-8")))
        block = re.compile(rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        if len(block.findall(text)) != 1:
            raise SystemExit(f"README.md must hold exactly one block '<!-- {name}: … -->' to '<!-- end of {name} -->'")
        text = block.sub(lambda found, made=made: f"{found[1]}\n{made}\n\n{found[2]}", text)  # type: ignore[misc]
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(rewritten(readme.read_text(encoding="utf-8")), encoding="utf-8")
