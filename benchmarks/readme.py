"""Write the tables of README.md from the registry of poolings and from the committed results.

``python -m benchmarks.readme`` rewrites the blocks between their comments.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.census.table import counts
from maskpool.bench.design.treatments import EXCLUDED, INCLUDED
from maskpool.bench.report.pages import HEADER, LEARNED_HEADER, learned_table, main_table, markdown_table
from maskpool.bench.report.results import main_table_of
from maskpool.integrations.st_host import modules as host
from maskpool.nn import POOLINGS

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
# The columns of a report's cluster table that the README shows.
COLUMNS = (
    "pooling",
    "plan",
    "treatment",
    "verdict",
    "ΔAMI [95 %]",
    "AMI",
    "V",
    "cosine shift",
    "neighbours kept",
    "floor",
)


def clusters(results: dict[str, Any]) -> str:
    """Make the block of a study: its verdict, and the rows of the excluded and included treatments."""
    (part,), study = results["parts"], results["study"]
    corpus = part["corpus"]
    rows = [dict(zip(HEADER, row, strict=True)) for row in main_table(part, main_table_of(part))]
    cells = [[row[name] for name in COLUMNS] for row in rows if row["treatment"] in (EXCLUDED, INCLUDED, "baseline")]
    return "\n".join(
        [
            f"**{' '.join(part['headline'])}**",
            "",
            f"{corpus['texts']:,} texts, {corpus['labels']} labels, {corpus['mean_length']:.0f} tokens on average, "
            f"{study['seeds']} k-means seeds, {study['replicates']} half-samples.",
            "",
            *markdown_table(COLUMNS, cells),
        ]
    )


def demonstration(results: dict[str, Any]) -> str:
    """Make the block of the default run."""
    learned = results["parts"][0]["learned"]
    return "\n".join(
        [
            clusters(results),
            "",
            f"An attention head, trained on half of the classes with states padded to {learned['width']}, clustering "
            f"the other half ({learned['head_seeds']} head seeds):",
            "",
            *markdown_table(LEARNED_HEADER, learned_table(results["parts"][0])),
        ]
    )


def attention_on_pads(results: dict[str, Any]) -> str:
    """Make the table of attention trained without a mask: its share on pads and its scores, by width."""
    widths, rows = results["widths"], results["rows"]
    lines = []
    for task, scores in dict.fromkeys((row["task"], row["scores"]) for row in rows):
        of_task = {row["width"]: row for row in rows if (row["task"], row["scores"]) == (task, scores)}
        lines.append(
            [
                f"{task}, {scores}",
                " / ".join(f"{of_task[width]['pad_share']:.0%}" for width in widths),
                " / ".join(f"{of_task[width]['attention_on_pads']['mean']:.1%}" for width in widths),
                f"{of_task[None]['accuracy']['mean']:.1%}",
                " / ".join(f"{of_task[width]['accuracy']['mean']:.1%}" for width in widths),
                f"{of_task[widths[0]]['served'][str(widths[-1])]['accuracy']['mean']:.1%}",
                f"{of_task[None]['ami']['mean']:.2f}" if "ami" in of_task[None] else "",
                " / ".join(_change(of_task[width]) for width in widths) if "ami" in of_task[None] else "",
            ]
        )
    shown = " / ".join(map(str, widths))
    header = (
        "labels, scores",
        f"pads at {shown}",
        "attention on them, trained without mask",
        "accuracy with mask",
        f"without, at {shown}",
        f"without, trained at {widths[0]}, served at {widths[-1]}",
        "AMI with mask",
        f"without minus with, at {shown}",
    )
    return "\n".join(markdown_table(header, lines))


def _change(row: dict[str, Any]) -> str:
    """Format a change of AMI, with a star if its interval does not contain zero."""
    change = row["ami_minus_masked"]
    return f"{change['mean']:+.3f}{'*' * (change['low'] > 0 or change['high'] < 0)}"


def learned_heads(results: dict[str, Any]) -> str:
    """Make the table of the accuracy of each learned head and of logistic regression on mean vectors."""
    tasks = results["tasks"]
    row_of = {(row["task"], row["head"]): row for row in results["rows"]}

    def cells(task: str, head: str) -> list[str]:
        row, to_peer = row_of[task, head], row_of[task, head]["to_peer"]
        return [f"{row['accuracy']:.1%}", f"{to_peer['points']:+.2f} [{to_peer['low']:+.2f}, {to_peer['high']:+.2f}]"]

    heads = dict.fromkeys(head for _, head in row_of)
    lines = [[head, *(cell for task in tasks for cell in cells(task, head))] for head in heads]
    peers = [cell for task in tasks.values() for cell in (f"{task['peer']['accuracy']:.1%}", "reference")]
    titles = [title for task in tasks for title in (task, "points to logistic regression")]
    return "\n".join(
        markdown_table(("pooling under a classifier", *titles), [*lines, ["logistic regression on means", *peers]])
    )


def census(results: dict[str, Any]) -> str:
    """Format the counts of the padding census."""
    return f"transformers {results['transformers']}: {counts(results)}"


DTYPE_NAMES = ("float32", "bfloat16", "float16")


def speed(results: dict[str, Any]) -> str:
    """Make the short table of the pooling benchmark: its first shape, forward only, and the environment."""
    rows, environment, padding = results["rows"], results["environment"], results["padding"]
    shape = rows[0]["shape"]
    times_of = {
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
        cells = [_ratios(times_of, mode, layout, peer) for layout, peer, _ in columns]
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


def _ratios(times_of: dict[tuple[str, str, str], dict[str, float]], mode: str, layout: str, peer: str) -> str:
    """Format a peer's time over ours in each dtype as one cell; empty if the peer does not have the mode."""
    times = [times_of.get((mode, layout, dtype), {}) for dtype in DTYPE_NAMES]
    ratios = [ms[peer] / ms["ours"] for ms in times if peer in ms]
    return " / ".join(f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}" for ratio in ratios)


def poolings() -> str:
    """Return the table of all registered poolings."""
    lines = []
    known = host.Pooling.POOLING_MODES
    for mode, layer in sorted(POOLINGS.items(), key=lambda item: (item[1].learns, item[0] not in known)):
        marks = {"*": mode in known, "w": layer.takes_token_weights, "p": layer.learns}
        options = ", ".join(f"`{name}`" for name in layer.options() if name not in ("on_empty", "start"))
        name = " ".join([f"`{mode}`", *(mark for mark, holds in marks.items() if holds)])
        lines.append([name, f"`{layer.__name__}`", layer.formula.replace("|", r"\|"), options, layer.source])
    return "\n".join(markdown_table(("mode", "layer", "formula over real tokens", "options", "source"), lines))


BLOCKS: dict[str, tuple[Path, Callable[[dict[str, Any]], str]]] = {
    "BANKING77": (RESULTS / "banking77" / "results.json", clusters),
    "SNIPS": (RESULTS / "snips" / "results.json", clusters),
    "demonstration": (RESULTS / "docstrings" / "results.json", demonstration),
    "attention": (RESULTS / "attention_on_pads.json", attention_on_pads),
    "heads": (RESULTS / "learned_heads.json", learned_heads),
    "census": (RESULTS / "census.json", census),
    "speed": (RESULTS / "pooling_speed.json", speed),
}


def rewritten(text: str) -> str:
    """Return ``text`` with every block generated again."""
    results = {name: make(json.loads(path.read_text(encoding="utf-8"))) for name, (path, make) in BLOCKS.items()}
    for name, made in {"poolings": poolings(), **results}.items():
        block = re.compile(rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        if len(block.findall(text)) != 1:
            raise SystemExit(f"README.md must hold exactly one block '<!-- {name}: … -->' to '<!-- end of {name} -->'")
        text = block.sub(lambda match, made=made: f"{match[1]}\n{made}\n\n{match[2]}", text)  # type: ignore[misc]
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(rewritten(readme.read_text(encoding="utf-8")), encoding="utf-8")
