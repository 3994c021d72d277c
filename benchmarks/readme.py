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


def speed(results: dict[str, Any]) -> str:
    """The short table of the pooling benchmark: its first shape, and what it was measured on."""
    shape = results["rows"][0]["shape"]
    rows = []
    for row in results["rows"]:
        if row["shape"] == shape:
            ratios = [f"{row[name]:.1f}×" if row[name] else "" for name in ("host_over_ours", "recipe_over_ours")]
            read = f"{row['ours_of_read']:.0%}" if row["ours_of_read"] else ""
            rows.append([f"`{row['mode']}`", row["dtype"], row["direction"], *ratios, read])
    header = ("mode", "dtype", "direction", "faster than sentence-transformers", "than the recipe", "of read bandwidth")
    size, fraction = shape.split(":")
    environment = results["environment"]
    return "\n".join(
        [
            f"Batches of {size.replace('x', ' × ')} with {float(fraction):.0%} real tokens, checks and preparation "
            f"included; sentence-transformers {environment['sentence-transformers']} and the usual recipe "
            "(`(x * mask).sum(1) / mask.sum(1)` and its like) in the same process, in turn, on "
            f"{environment['threads']} threads:",
            "",
            *markdown_table(header, rows),
        ]
    )


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
