"""Write the results of the census as a table for people and as a short file for the audit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from maskpool.audit.census import CensusRow
from maskpool.audit.encoder_probes import CONVENTIONS
from maskpool.bench.report.pages import markdown_table
from maskpool.types import SIDES

HEADER = ("architecture", "right", "left", "with positions", "batch", "state", "one pass", "why", "what to do")
REPRODUCTIONS = Path(__file__).parent / "reproductions"
_HEAD = """# The padding census

What padding does to the token states of the text architectures of transformers {transformers}, those that also see or
hear included (run only on text), when the mask is passed correctly. Made by `python -m benchmarks.census` in
{minutes:.0f} minutes on one core; all numbers are in [census.json](results/census.json).

{counts}

Each architecture is built tiny and random from its configuration, windows, chunks and top-k of a few tokens, and run
in float32 (again in float64 where a number is not clearly noise and the code allows it), with default and eager
attention, on texts of 5 tokens and of more than twice its widest window. Random weights ensure that no norm is one and
no pad row zero. A number is the largest change of a real token's state, relative to the root mean square of the states:
{clean:.0e} and less is noise. *The rows describe code, not weights*: a trained model can leak less than a random
one.

- **right, left**: the text alone against the same text padded on that side. *content*: ids under the mask reach real
  tokens. *length*: the number of pads does, for any ids. *shifted*: real tokens get other positions. *ids*: the pad's
  own id has no effect, but other ids under the mask would. *(long)*: only where text and pads exceed the limits named
  in the last column.
- **with positions**: where padding shifts or counts, the same with `position_ids` that count real tokens from 0 or from
  the pad's id + 1.
- **batch**: another companion of equal length, nothing padded. **state**: the same text again, after a longer and a
  shorter one.
- **one pass**: whether more pads only append outputs; one pass at the longest width then holds all shorter ones.
- **why**: the cause that the audit finds on the side that leaks.

## The table
"""


def row_of(measured: Mapping[str, Any]) -> CensusRow:
    """Return a measured row without its numbers."""
    values = {**measured, "causes": {side: cause["cause"] for side, cause in measured["causes"].items() if cause}}
    values["limits"] = tuple(measured["limits"])
    return CensusRow(**{field.name: values[field.name] for field in fields(CensusRow)})


def short(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of the shipped file: only measured rows, without numbers."""
    rows = [row_of(row) for row in results["rows"] if row["status"] == "measured"]
    return {"transformers": results["transformers"], "rows": [vars(row) for row in rows]}


def counts(results: Mapping[str, Any]) -> str:
    """Summarise how many architectures were measured, and with which result."""
    rows = [row_of(row) for row in results["rows"] if row["status"] == "measured"]
    real = [row for row in rows if not row.vacuous]
    clean = ("clean", "ids")
    shifted = [row for row in real if row.left == "positions" and row.right in clean]
    right = [row for row in real if row.right not in clean]
    long = sum("right" in row.short for row in right)
    left = [row for row in real if row.left not in (*clean, "positions")]
    either = [row for row in real if row.right in clean and row.left in clean]
    ids = sum("ids" in (row.right, row.left) for row in either)
    coupled, state = sum(row.coupled for row in real), sum(row.state for row in real)
    appends = sum(all(row.appends.values()) for row in real)
    lines = [
        f"{len(either)} do not depend on padding on either side, {ids} of them only if masked positions hold "
        "the pad's own id.",
        f"{len(shifted)} do not depend on it on the right, but shift positions on the left; position ids cure "
        f"{sum('left' in row.cures for row in shifted)} of them.",
        f"{len(right)} leak on the right, {long} of them only past their windows or chunks; {len(left)} leak on the "
        "left by more than positions.",
        f"{coupled} couple the texts of a batch; {state} keep state between calls.",
        f"In {appends}, more pads only append outputs, in every attention implementation, so one pass gives all padded "
        "lengths.",
    ]
    vacuous = f", {len(rows) - len(real)} of them vacuous (no token reads another)" if len(rows) > len(real) else ""
    architectures = len({row.architecture for row in rows})
    head = f"**{architectures} architectures measured, in {len(rows)} rows with their variants{vacuous}.** Of the rows:"
    return "\n".join([head, "", *(f"- {line}" for line in lines)])


def markdown(results: Mapping[str, Any], minutes: float, clean: float) -> str:
    """Return the whole page."""
    head = _HEAD.format(transformers=results["transformers"], minutes=minutes, counts=counts(results), clean=clean)
    measured = [row for row in results["rows"] if row["status"] == "measured"]
    table = [_cells(row) for row in sorted(measured, key=lambda row: (row["architecture"], row["variant"]))]
    failed = [(_name(row), row["reason"]) for row in results["rows"] if row["status"] == "failed"]
    reasons = Counter(row["reason"] for row in results["rows"] if row["status"] == "not attempted")
    others = {reason: [_name(row) for row in results["rows"] if row.get("reason") == reason] for reason in reasons}
    return "\n".join(
        [
            head,
            *markdown_table(HEADER, table),
            "",
            *_reproductions(),
            "## Not measured",
            "",
            *markdown_table(
                ("architecture", "reason"), [(name, reason.replace("|", "\\|")) for name, reason in failed]
            ),
            "",
            *(
                f"Not attempted, because {reason} ({len(names)}): {', '.join(names)}.\n"
                for reason, names in others.items()
            ),
        ]
    )


def _reproductions() -> list[str]:
    """List the reproductions, each with its first line."""
    scripts = sorted(REPRODUCTIONS.glob("[!_]*.py"))
    if not scripts:
        return []
    lines = [f"- [{path.name}](census/reproductions/{path.name}): {_first_line(path)}" for path in scripts]
    return [
        "## Leaks, isolated",
        "",
        "Each script removes one mechanism, and the leak vanishes.",
        "",
        *lines,
        "",
    ]


def _first_line(path: Path) -> str:
    return path.read_text(encoding="utf-8").split('"""')[1].strip().splitlines()[0]


def _reproductions_of(row: CensusRow) -> list[str]:
    """Return links to the reproductions of a row that leaks: scripts named after its architecture or variant."""
    if not (row.coupled or row.state or {"content", "length"} & {row.right, row.left}):
        return []
    names = [name.replace("-", "_").replace(" ", "_") for name in (row.architecture, row.variant) if name]
    stems = [path.stem for path in sorted(REPRODUCTIONS.glob("[!_]*.py"))]
    matching = [stem for name in names for stem in stems if stem == name or stem.startswith(f"{name}_")]
    return [f"[{stem}.py](census/reproductions/{stem}.py)" for stem in matching]


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['architecture']} ({row['variant']})" if row["variant"] else str(row["architecture"])


_SIGNS = {
    "clean": "✓",
    "content": "**content**",
    "length": "**length**",
    "positions": "**shifted**",
    "ids": "ids",
    "no numbers": "**NaN**",
}


def _cells(measured: Mapping[str, Any]) -> tuple[str, ...]:
    row, sizes = row_of(measured), measured["sizes"]
    moved = [name for name in SIDES if getattr(row, name) in ("length", "positions")]

    def size(probe: str) -> str:
        number = sizes.get(probe, "")
        return "NaN" if number is None else number and f"{number:.0e}".replace("-", "−")  # browsers break at a hyphen

    def side(name: str) -> str:
        kind = getattr(row, name)
        probe = f"ids under the mask, {name}" if kind == "ids" else name
        return f"{_SIGNS[kind]} {size(probe)}{' (long)' * (name in row.short)}"

    names = [(f"{name}, positions {start}", f"{name} {start}") for name in SIDES for start in CONVENTIONS]
    cures = [f"{words}: {size(probe)}" for probe, words in names if probe in sizes and words.split()[0] in moved]
    appends = {"yes": all(row.appends.values()), "no": not any(row.appends.values())}
    some = [attention for attention, holds in row.appends.items() if holds]
    one_pass = next((word for word, holds in appends.items() if holds), f"only {', '.join(some)}")
    causes = dict.fromkeys(row.causes.values())
    return (
        row.name,
        side("right"),
        side("left"),
        "<br>".join(cures) or ("takes none" if moved else ""),
        "**coupled**" if row.coupled else "✓",
        "**keeps**" if row.state else "✓",
        one_pass,
        "vacuous" if row.vacuous else "; ".join([*causes, *_reproductions_of(row)]),
        row.advice,
    )
