"""Write the tables of the documentation from the code and from the committed results.

``python -m benchmarks.tables`` rewrites the blocks between their comments, in README.md and in ``docs/``.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import typer

from benchmarks import encoders
from benchmarks.census.table import counts
from benchmarks.clients import CLIENTS, KINDS, WITH, Outcome
from benchmarks.coverage import FALSE, LEAST, MOST
from benchmarks.goals import largest_ratios
from benchmarks.site import MODULES
from maskpool.bench.design.study import DEFAULT_TREATMENTS, CorpusSource, Study
from maskpool.bench.design.treatments import EXCLUDED, INCLUDED, MIXED, TREATMENTS
from maskpool.bench.report.pages import HEADER, LEARNED_HEADER, learned_table, main_table, markdown_table
from maskpool.bench.report.results import main_table_of
from maskpool.cli.app import app
from maskpool.cli.config import config_parser
from maskpool.config.servers.table import SERVERS
from maskpool.integrations.st_host import modules as host
from maskpool.leaks import PADDING_BUGS
from maskpool.nn import POOLINGS
from maskpool.plans import Plan

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SETTINGS = ROOT / "mkdocs.yml"
# The columns of a report's cluster table that the documentation shows.
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


def scaling(results: dict[str, Any]) -> str:
    """Make the table of the speed of ``maskpool embed`` against sentence-transformers."""
    section = results["speed"]
    environment = section["environment"]
    lines = []
    for row in section["rows"]:
        rates = [f"{rate:.0f}" for rate in row["texts_per_second"].values()]
        gains = [
            f"{gain:.2f} ({min(by_round):.2f} to {max(by_round):.2f})"
            for peer, gain in row["times_as_fast_as"].items()
            for by_round in [[a / b for a, b in zip(row["rounds_s"][peer], row["rounds_s"]["maskpool"], strict=True)]]
        ]
        pads = [f"{row[what]:.1%}" for what in ("pads", "pads_of_encode")]
        lines.append([row["texts"], f"{row['shortest']} to {row['longest']}", *pads, *rates, *gains])
    header = (
        "texts",
        "tokens",
        "pads",
        "pads of `encode`",
        "texts per second",
        "`encode`",
        "its pool",
        "times as fast as `encode`",
        "as its pool",
    )
    return "\n".join(
        [
            f"all-MiniLM-L6-v2 with {environment['threads']} threads of one {environment['cpu']} machine, medians of "
            f"{section['rounds']} rounds in turn (in brackets: of single rounds); reading the file and writing "
            "the parts included. "
            f"`SentenceTransformer.encode` of {environment['sentence-transformers']} runs sorted batches of 32, its "
            "pool two processes on the same threads. The vectors differ by at most "
            f"{max(row['largest_difference'] for row in section['rows']):.0e}.",
            "",
            *markdown_table(header, lines),
        ]
    )


BILLION = 10**9
_NAMES_PER_LISTING = 1_000  # of an object store that speaks the protocol of S3


def reckoning(results: dict[str, Any]) -> str:
    """Make the table of what a billion texts take: each number measured, set in the code, or computed from those."""
    folder, speed = results["folder"], results["speed"]
    parts = BILLION // folder["part_rows"]
    rate = {row["texts"]: row["texts_per_second"]["maskpool"] for row in speed["rows"]}
    sizes = {dtype: size / folder["part_rows"] for dtype, size in folder["bytes_of_part"].items()}
    journal, held = folder["bytes_of_journal_per_part"], folder["bytes_held_per_part"]
    planning = folder["seconds_to_plan"] / folder["planned_lines"]
    assert folder["listed_parts"] == parts, "the listing is measured at the size that the page is about"
    lines = [
        ["rows of a part", f"{folder['part_rows']:,}, set by default", ""],
        ["parts", "", f"{parts:,}, computed"],
        *(
            [
                f"vectors, {dtype}, {folder['dimension']} numbers",
                f"{size:,.0f} bytes a row, measured",
                f"{size * BILLION / 1e12:.2f} TB, computed",
            ]
            for dtype, size in sizes.items()
        ),
        ["`parts.jsonl`", f"{journal:.0f} bytes a part, measured", f"{journal * parts / 1e6:.0f} MB, computed"],
        [
            "`run.json`",
            f"{folder['bytes_of_manifest']:,} bytes, and {folder['bytes_of_manifest_per_file']} for each further input "
            "file with a path of this length, measured",
            f"{(folder['bytes_of_manifest'] + 1e4 * folder['bytes_of_manifest_per_file']) / 1e6:.1f} MB for 10,000 "
            "input files, computed",
        ],
        [
            "planning: reading every line once, also when a run resumes",
            f"{planning * 1e6:.1f} s for a million short lines of a file in cache, measured",
            f"{planning * BILLION / 60:.0f} minutes, computed",
        ],
        [
            "listing the finished parts when a run resumes",
            "",
            f"{folder['seconds_to_list']:.1f} s on a local disk, measured at {folder['listed_parts']:,} parts",
        ],
        [
            "memory of the plan and the list of parts",
            f"{held:.0f} bytes a part, measured",
            f"{held * parts / 1e6:.0f} MB, computed",
        ],
        *(
            [
                f"encoding texts like {name}, {speed['environment']['threads']} threads",
                f"{rate[name]:.0f} texts per second, measured",
                f"{BILLION / rate[name] / 86400:,.0f} days on one such machine, "
                f"{BILLION / rate[name] / 86400 / 7:,.0f} such machines for a week, computed",
            ]
            for name in rate
        ),
        ["objects in a store", "1 a part", f"{parts:,} uploads, computed"],
        [
            "listing a store",
            f"{_NAMES_PER_LISTING:,} names a request, the limit of S3",
            f"{parts // _NAMES_PER_LISTING:,} requests, computed",
        ],
    ]
    return "\n".join(markdown_table(("what", "unit", "a billion texts"), lines))


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
            "![Ratios by pooling and layout, and time against padding](../benchmarks/results/pooling_speed.png)",
        ]
    )


def latency(results: dict[str, Any]) -> str:
    """Make the table of few texts: float32, one thread, and the environment."""
    rows, environment = results["rows"], results["environment"]
    median_of = {
        (row["mode"], row["shape"]): row["median_us"]
        for row in rows
        if (row["dtype"], row["threads"]) == ("float32", 1)
    }
    shapes = list(dict.fromkeys(shape for _, shape in median_of))
    lines = []
    for mode in dict.fromkeys(mode for mode, _ in median_of):
        cells = []
        for shape in shapes:
            times = median_of[mode, shape]
            peers = [times.get("host"), times.get("recipe")]
            cells.append(" / ".join("–" if peer is None else _ratio(peer / times["ours"]) for peer in peers))
        lines.append([f"`{mode}`", *cells])
    return "\n".join(
        [
            f"How many times as long as maskpool sentence-transformers / a recipe takes for a call, float32; medians "
            f"of up to {max(row['calls'] for row in rows):,} calls in turn; sentence-transformers "
            f"{environment['sentence-transformers']}, torch {environment['torch']}, on one thread:",
            "",
            *markdown_table(("pooling", *map(_in_words, shapes)), lines),
            "",
            "![Microseconds of a call by pooling and shape](../benchmarks/results/pooling_latency.png)",
        ]
    )


def study_speed(results: dict[str, Any]) -> str:
    """Make the table of the cells of studies: times as fast as scikit-learn's way, and the goals that are missed."""
    compared, large, environment = results["compared"], results["large"], results["environment"]
    lines, missed = [], []
    for name, study in results["studies"].items():
        gain, kmeans = compared[name]["gain"], study["kmeans"]
        if not gain["reached"]:
            missed.append(f"{name}, {gain['found']:.1f} of {gain['at_least']:g} times as fast")
        lines.append(
            [
                name,
                f"{study['texts']:,}",
                f"{study['seconds']['plain']:,.0f} s",
                f"{study['seconds']['now']:,.0f} s",
                f"{study['gain']:.1f}",
                f"{kmeans['same_labels']} of {kmeans['seeds']}",
                f"{study['neighbours']['different']} of {study['neighbours']['texts']:,}",
            ]
        )
    default = results["studies"]["default"]
    passes = compared["large"]["passes"]
    if not passes["reached"]:
        missed.append(f"the large study, {passes['found']:.1f} passes of at most {passes['at_most']:g}")
    header = (
        *("study", "texts", "scikit-learn's way", "maskpool", "times as fast"),
        *("fits with the same labels", "texts with other neighbours"),
    )
    return "\n".join(
        [
            "Seconds of the processor for all of a study but the encoder's pass, on one thread, estimated from a "
            f"sample of its cells; all-MiniLM-L6-v2, scikit-learn {environment['scikit-learn']}:",
            "",
            *markdown_table(header, lines),
            "",
            "Training learned poolings, TF-IDF and the seconds of plans are the same work in both, "
            f"{default['rest_s']:,.0f} s of the default study.",
            "",
            f"A study of {large['texts']:,} texts with {large['labels']} labels, one pooling and {large['plans']} "
            f"plans takes {passes['found']:.1f} times as long as its pass of the encoder, without that pass. Missed "
            f"goals: {'; '.join(missed) or 'none'}.",
        ]
    )


def goals() -> str:
    """Make the table of the goals of poolings, with the largest ratio that was measured for each."""
    latency, speed = (
        json.loads((RESULTS / f"pooling_{name}.json").read_text("utf-8")) for name in ("latency", "speed")
    )
    lines = [
        [goal.what, f"{goal.most:g}", f"{ratio:.2f}", f"missed by `{mode}`" if ratio > goal.most else ""]
        for goal, ratio, mode in largest_ratios(latency, speed)
    ]
    return "\n".join(markdown_table(("time of ours over", "goal", "largest measured", ""), lines))


def _in_words(shape: str) -> str:
    size, _, real = shape.partition(":")
    return size.replace("x", " × ") + (f", {float(real):.0%} real" if real and float(real) < 1 else "")


def _ratios(times_of: dict[tuple[str, str, str], dict[str, float]], mode: str, layout: str, peer: str) -> str:
    """Format a peer's time over ours in each dtype as one cell; empty if the peer does not have the mode."""
    times = [times_of.get((mode, layout, dtype), {}) for dtype in DTYPE_NAMES]
    return " / ".join(_ratio(ms[peer] / ms["ours"]) for ms in times if peer in ms)


def _ratio(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}"


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


def finding(results: dict[str, Any]) -> str:
    """Say in a sentence what a plain mean over the pads of random batches does to the clusters of a study."""
    (part,) = results["parts"]
    corpus = part["corpus"]
    rows = {
        (row["pooling"], row["plan"], row["treatment"]): row
        for row in map(_named, main_table(part, main_table_of(part)))
    }
    alone = rows["mean", "any", EXCLUDED]
    plan = next(name for name in part["with_pads"] if name.startswith("random"))
    padded = rows["mean", plan, INCLUDED]
    return (
        f"On {corpus['name']} ({corpus['texts']:,} texts, {corpus['labels']} labels) with {part['model']['name']}, a "
        f"plain mean over {plan} changes AMI from {alone['AMI']} to {padded['AMI']}: ΔAMI = {padded['ΔAMI [95 %]']}, "
        f"**{padded['verdict']}**."
    )


def _named(row: Sequence[str]) -> dict[str, str]:
    return dict(zip(HEADER, row, strict=True))


def cache(results: dict[str, Any]) -> str:
    """Say what the file of cached states costs and saves."""
    compared, corpus = results["compared"], results["corpus"]
    return (
        f"Measured on {corpus['texts']:,} texts with {results['environment']['threads']} threads: the file is "
        f"{compared['size_ratio']['found']:.3f} times the size of the states in it, a batch is read "
        f"{compared['speed_of_plain_read']['found']:.1f} times as fast as from a plain memory map, and an epoch over "
        f"the file is {compared['epoch_times_as_fast']['found']:.0f} times as fast as one that runs the encoder on "
        "batches sorted by number of tokens. `python -m benchmarks.state_cache` measures it on your machine."
    )


def simulated(results: dict[str, Any]) -> str:
    """Say how often simulated studies are right, with every setting that is outside the bars."""
    settings = results["simulated"]
    studies = min(measured["studies"] for measured in settings)
    ends = f"{results['lowest']['coverage']:.1%} to {results['highest']['coverage']:.1%}"
    outside = [
        f"{measured['coverage']:.1%} with {measured['comparisons']} comparisons, where seeds make up "
        f"{measured['seed_share']:.0%} of the squared standard error and their variance on half-samples is "
        f"{measured['on_halves']:g} times that on all texts"
        for measured in settings
        if not LEAST <= measured["coverage"] <= MOST
    ]
    false = sorted((measured["false_changes"] for measured in settings), reverse=True)
    above = ", ".join(f"{share:.1%}" for share in false if share > FALSE)
    error = 2 * (FALSE * (1 - FALSE) / studies) ** 0.5
    near = "less than" if false[0] <= FALSE + error else "more than"
    missed = max(measured["missed_changes"] for measured in settings)
    return (
        f"In {len(settings)} settings of {studies:,} studies each, all intervals of a study hold at once in {ends} of "
        f"studies. The bar is {LEAST:.0%} to {MOST:.0%}; outside it: {'; '.join(outside) or 'none'}. Without an "
        f"effect, {false[-1]:.1%} to {false[0]:.1%} of studies report a change. The settings above {FALSE:.0%} "
        f"({above or 'none'}) differ from it by {near} two standard errors of the simulation ({error:.1%}). "
        f"Of studies with true changes of 1.5 "
        f"margins, at most {missed:.1%} report no change."
    )


def bugs() -> str:
    """Return the table of padding bugs: what people notice, and the page."""
    lines = []
    for bug in PADDING_BUGS.values():
        symptom = (ROOT / bug.url).read_text(encoding="utf-8").split("\n\n")[1]
        page = Path("..", *Path(bug.url).parts[1:]).as_posix()
        lines.append([" ".join(symptom.split()), f"[{bug.title[0].upper()}{bug.title[1:]}]({page})"])
    return "\n".join(markdown_table(("what people notice", "bug"), lines))


def keys(settings: type[Any]) -> str:
    """Return the table of a class of settings: its attributes, their defaults, and what its docstring says of them."""
    text = inspect.getdoc(settings) or ""
    section = re.search(r"^Attributes:\n((?:    .*\n?)+)", text, re.MULTILINE)
    assert section is not None, settings
    meanings = dict(re.findall(r"^    (\w+): (.*(?:\n        .*)*)", section[1], re.MULTILINE))
    lines = []
    for field in fields(settings):
        meaning = re.sub(r"``(.*?)``", r"`\1`", " ".join(meanings[field.name].split()))
        lines.append([f"`{field.name}`", _default(field.default), meaning.replace("|", r"\|")])
    return "\n".join(markdown_table(("key", "default", "meaning"), lines))


def _default(value: object) -> str:
    """Write a default as it is in a TOML file; None, and defaults that the meaning describes, are empty."""
    if isinstance(value, tuple):
        simple = all(isinstance(item, (str, int)) for item in value)
        return f"`[{', '.join(json.dumps(item) for item in value)}]`" if value and simple else ""
    return "" if value is None else f"`{json.dumps(value)}`"


def treatments() -> str:
    """Return the table of treatments."""
    meanings = {name: treatment.meaning for name, treatment in TREATMENTS.items() if name != EXCLUDED} | MIXED
    default = {name: "yes" if name in DEFAULT_TREATMENTS else "" for name in meanings}
    lines = [[f"`{name}`", default[name], meaning.replace("|", r"\|")] for name, meaning in meanings.items()]
    return "\n".join(markdown_table(("treatment", "by default", "what is pooled"), lines))


def commands() -> str:
    """Return one section per command of the command line, with its arguments and options."""
    lines: list[str] = []
    for name, command in _walk("maskpool", typer.main.get_command(app)):
        if name == "maskpool":
            continue
        help_text = re.sub(r"``(.*?)``", r"`\1`", (command.help or "").replace("\b\n", "").strip())
        lines += [f"## {name}", "", *help_text.splitlines(), ""]
        rows = []
        for parameter in command.params:
            options = ", ".join(f"`{option}`" for option in parameter.opts) if parameter.opts[0].startswith("-") else ""
            label = options or f"`{parameter.metavar or (parameter.name or '').upper()}`"
            shown = (
                ""
                if parameter.default in (None, False, []) or callable(parameter.default)
                else f"`{_shown(parameter.default)}`"
            )
            rows.append([label, shown, (getattr(parameter, "help", None) or "").replace("|", r"\|")])
        lines += [*markdown_table(("option", "default", "meaning"), rows), ""] if rows else []
        lines += _config_commands() if name == "maskpool config" else []
    return "\n".join(lines).strip()


def _config_commands() -> list[str]:
    """Return the sections of the commands that argparse parses; it has no public list of its options."""
    (commands,) = (action.choices for action in config_parser()._actions if isinstance(action.choices, dict))
    lines = []
    for parser in commands.values():
        rows = [
            [", ".join(f"`{name}`" for name in action.option_strings or [action.metavar]), "", action.help or ""]
            for action in parser._actions
            if "--help" not in action.option_strings
        ]
        table = markdown_table(("option", "default", "meaning"), rows)
        lines += [f"## {parser.prog}", "", parser.description or "", "", *table, ""]
    return lines


def _shown(default: object) -> str:
    return ",".join(map(str, default)) if isinstance(default, (list, tuple)) else str(default)


def _walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:  # Any: typer's own click, which has no types
    yield name, command
    for child, below in getattr(command, "commands", {}).items():
        yield from _walk(f"{name} {child}", below)


def clients() -> str:
    """Return a table of what each client makes of saved models, one row per way to open them."""
    rows = []
    for client in CLIENTS.values():
        for opening in client.openings:
            cells = []
            for kind in KINDS:
                usual = opening.host if kind == "host" else opening.ours
                others: dict[Outcome, list[str]] = {}
                for (other_kind, mode), outcome in opening.others.items():
                    if other_kind == kind:
                        others.setdefault(outcome, []).append(f"*{mode}*")
                parts = [
                    usual.value,
                    *(f"**{outcome.value}**: {', '.join(modes)}" for outcome, modes in others.items()),
                ]
                cells.append("; ".join(parts))
            rows.append([f"[{client.title}]({client.address})", f"`{opening.call}`", *cells])
    header = ("client", "call", "saved after `as_host_pooling`", "saved with a pooling of maskpool")
    runs = [[client.title, f"`pip install {client.packages}`", f"run, {client.date}"] for client in CLIENTS.values()]
    return "\n".join(
        [*markdown_table(header, rows), "", *markdown_table(("client", f"run with {WITH}", "known"), runs)]
    )


def servers() -> str:
    """Return one section per server, with a table of its facts."""
    lines: list[str] = []
    for server in SERVERS.values():
        versions = dict.fromkeys(filter(None, (server.oldest, server.newest)))  # a single version once
        known = f", {' to '.join(versions)}" if server.newest else ""
        poolings = ", ".join(f"`{name}` for {mode}" for mode, name in server.poolings.items())
        named = f" Its names of poolings: {poolings}." if poolings else ""
        lines += [f"## {server.title}", "", f"Its [source]({server.address}){known}.{named}", ""]
        rows = [
            [
                row.aspect.value,
                ", ".join(condition.words for condition in row.when) or "all others",
                row.versions.replace("<", "\\<").replace(">", "\\>"),
                f"**{row.verdict.value}**",
                "; ".join(filter(None, [_filled(row.computes), _filled(row.repairs(), server.name)])),
                f"[{row.known.value}]({row.source}), {row.date}",
            ]
            for row in server.rows
        ]
        header = ("about", "models", "versions", "verdict", "what it computes; what repairs it", "known")
        lines += [*markdown_table(header, rows), ""]
    return "\n".join(lines).rstrip()


class _Words(dict[str, str]):
    """Replace what depends on the model by its name in capitals."""

    def __missing__(self, name: str) -> str:
        return name.upper()


def _filled(text: str, server: str = "") -> str:
    return text.replace("!r}", "}").format_map(_Words(server=server))


def public_names(module_name: str) -> list[str]:
    """Return the names in ``__all__`` that are not modules, or the classes and functions that a module defines."""
    module = importlib.import_module(module_name)
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return [name for name in listed if not inspect.ismodule(getattr(module, name))]
    return [
        name
        for name, member in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(member) or inspect.isfunction(member))
        and member.__module__ == module_name
    ]


def reference(module_name: str) -> str:
    """Return what mkdocstrings replaces by the docstrings of a module and of its public names."""
    names = ", ".join(public_names(module_name))
    options = ["show_root_heading: false", "show_root_toc_entry: false", f"members: [{names}]"]
    return "\n".join([f"::: {module_name}", "    options:", *(f"      {option}" for option in options)])


BLOCKS: dict[str, tuple[Path, Callable[[dict[str, Any]], str]]] = {
    "finding": (RESULTS / "banking77" / "results.json", finding),
    "BANKING77": (RESULTS / "banking77" / "results.json", clusters),
    "SNIPS": (RESULTS / "snips" / "results.json", clusters),
    "demonstration": (RESULTS / "docstrings" / "results.json", demonstration),
    "attention": (RESULTS / "attention_on_pads.json", attention_on_pads),
    "heads": (RESULTS / "learned_heads.json", learned_heads),
    "coverage": (RESULTS / "coverage.json", simulated),
    "cache": (RESULTS / "state_cache.json", cache),
    "census": (RESULTS / "census.json", census),
    "speed": (RESULTS / "pooling_speed.json", speed),
    "latency": (RESULTS / "pooling_latency.json", latency),
    "study speed": (RESULTS / "study_speed.json", study_speed),
    "scaling": (RESULTS / "scaling.json", scaling),
    "reckoning": (RESULTS / "scaling.json", reckoning),
}
BLOCK = re.compile(r"(<!-- ([\w .]+): [^\n]*-->\n).*?(<!-- end of \2 -->)", re.DOTALL)


def made_blocks() -> dict[str, str]:
    """Return the content of every block, by its name."""
    results = {name: make(json.loads(path.read_text(encoding="utf-8"))) for name, (path, make) in BLOCKS.items()}
    of_code = {
        "poolings": poolings(),
        "bugs": bugs(),
        "study keys": keys(Study),
        "corpus keys": keys(CorpusSource),
        "plan keys": keys(Plan),
        "treatments": treatments(),
        "commands": commands(),
        "servers": servers(),
        "clients": clients(),
        "encoders": encoders.block(),
        "goals": goals(),
    }
    return {**of_code, **{f"names of {module}": reference(module) for module in MODULES}, **results}


def pages() -> list[Path]:
    """Return the pages that may hold blocks."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def rewritten(text: str, blocks: dict[str, str]) -> str:
    """Return a page with every block generated again.

    Raises:
        KeyError: A block has an unknown name.
    """
    return BLOCK.sub(lambda match: f"{match[1]}\n{blocks[match[2]]}\n\n{match[3]}", text)


def with_bugs(settings: str) -> str:
    """Return the settings of the site with the pages of all padding bugs in its navigation."""
    pages_of_bugs = "".join(
        f"          - {Path(bug.url).relative_to('docs').as_posix()}\n" for bug in PADDING_BUGS.values()
    )
    return re.sub(
        r"(# padding bugs: .*\n)(?:.*\n)*?(.*# end of padding bugs)", rf"\g<1>{pages_of_bugs}\g<2>", settings, count=1
    )


def main() -> None:
    """Rewrite all pages."""
    blocks = made_blocks()
    for page in pages():
        page.write_text(rewritten(page.read_text(encoding="utf-8"), blocks), encoding="utf-8")
    SETTINGS.write_text(with_bugs(SETTINGS.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
