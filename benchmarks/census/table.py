"""The results of the census as a table for people, and in short for the audit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from maskpool.audit.census import CensusRow
from maskpool.audit.encoder_probes import CONVENTIONS, SIDES
from maskpool.bench.report.pages import markdown_table

HEADER = ("architecture", "right", "left", "told positions", "batch", "state", "one pass", "why", "what to do")
REPRODUCTIONS = Path(__file__).parent / "reproductions"
_HEAD = """# The padding census

What padding does to the token states of the text architectures of transformers {transformers}, those that also see or
hear (run on text alone) among them, when the mask is passed as it should be. Remade by `python -m benchmarks.census` in
{minutes:.0f} minutes on one core; all numbers are in [census.json](results/census.json).

{counts}

Each architecture is built tiny and random from its configuration, windows, chunks and top-k of a few tokens, and run
in float32 (again in float64 where a number is no clear noise and the code runs so), with default and eager attention,
on texts of 5 tokens and of more than twice its widest window. Weights are drawn anew, so that no norm is one and no pad
row zero. A number is the largest change of a real token's state, relative to the root mean square of the states:
{clean:.0e} and less is noise. *The rows speak of code, not of weights*: a trained model can leak less than a random
one.

- **right, left**: the text alone, beside the same text padded on that side. *content*: what stands under the mask
  reaches real tokens. *length*: the number of pads does, whatever their ids. *shifted*: real tokens get other
  positions. *ids*: the pad's own id does nothing, but other ids under the mask would. *(long)*: only where text and
  pads pass the limits named in the last column.
- **told positions**: where padding shifts or counts, the same with `position_ids` that count real tokens from 0 or from
  behind the pad's id.
- **batch**: another companion of equal length, nothing padded. **state**: the same text again, after a longer and a
  shorter one.
- **one pass**: whether more pads only append outputs, so that one pass at the longest width holds all shorter ones.
- **why**: what the audit finds to be the cause, on the side that leaks.
"""


def row_of(found: Mapping[str, Any]) -> CensusRow:
    """A measured row, without its numbers."""
    values = {**found, "causes": {side: cause["cause"] for side, cause in found["causes"].items() if cause}}
    values["limits"] = tuple(found["limits"])
    return CensusRow(**{one.name: values[one.name] for one in fields(CensusRow)})


def short(results: Mapping[str, Any]) -> dict[str, Any]:
    """What the audit and the harness read: no numbers, and measured rows alone."""
    rows = [row_of(row) for row in results["rows"] if row["status"] == "measured"]
    return {"transformers": results["transformers"], "rows": [vars(row) for row in rows]}


def counts(results: Mapping[str, Any]) -> str:
    """How many architectures were measured, and what was found."""
    rows = [row_of(row) for row in results["rows"] if row["status"] == "measured"]
    real = [row for row in rows if not row.vacuous]
    fine = ("clean", "ids")
    shifted = [row for row in real if row.left == "positions" and row.right in fine]
    right = [row for row in real if row.right not in fine]
    long = sum("right" in row.short for row in right)
    left = [row for row in real if row.left not in (*fine, "positions")]
    either = [row for row in real if row.right in fine and row.left in fine]
    ids = sum("ids" in (row.right, row.left) for row in either)
    coupled, state = sum(row.coupled for row in real), sum(row.state for row in real)
    appends = sum(all(row.appends.values()) for row in real)
    lines = [
        f"{len(either)} are free of padding on both sides, {ids} of them as long as the pad's own id stands under the "
        "mask.",
        f"{len(shifted)} are so on the right and shift positions on the left; position ids cure "
        f"{sum('left' in row.cures for row in shifted)} of them.",
        f"{len(right)} leak on the right, {long} of them only past their windows or chunks, and {len(left)} on the "
        "left otherwise than by positions.",
        f"{coupled} couple the texts of a batch, {state} keep something of an earlier call.",
        f"In {appends} more pads only append outputs, in every attention implementation: one pass gives all widths.",
    ]
    vacuous = f", {len(rows) - len(real)} of them vacuous (no token reads another)" if len(rows) > len(real) else ""
    architectures = len({row.architecture for row in rows})
    head = f"**{architectures} architectures measured, in {len(rows)} rows with their variants{vacuous}.** Of the rows:"
    return "\n".join([head, "", *(f"- {line}" for line in lines)])


def markdown(results: Mapping[str, Any], minutes: float, clean: float) -> str:
    """The whole page."""
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
            *_ablations(),
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


def _ablations() -> list[str]:
    """The reproductions, by the first line of each."""
    scripts = sorted(REPRODUCTIONS.glob("[!_]*.py"))
    if not scripts:
        return []
    lines = [f"- [{path.name}](census/reproductions/{path.name}): {_first_line(path)}" for path in scripts]
    return [
        "## Leaks, taken apart",
        "",
        "Each script removes one mechanism, and the leak goes with it.",
        "",
        *lines,
        "",
    ]


def _first_line(path: Path) -> str:
    return path.read_text(encoding="utf-8").split('"""')[1].strip().splitlines()[0]


def _taken_apart(row: CensusRow) -> list[str]:
    """Links to the reproductions of a row that leaks, which are called after its architecture or its variant."""
    if not (row.coupled or row.state or {"content", "length"} & {row.right, row.left}):
        return []
    names = [name.replace("-", "_").replace(" ", "_") for name in (row.architecture, row.variant) if name]
    stems = [path.stem for path in sorted(REPRODUCTIONS.glob("[!_]*.py"))]
    found = [stem for name in names for stem in stems if stem == name or stem.startswith(f"{name}_")]
    return [f"[{stem}.py](census/reproductions/{stem}.py)" for stem in found]


def _name(found: Mapping[str, Any]) -> str:
    return f"{found['architecture']} ({found['variant']})" if found["variant"] else str(found["architecture"])


_SIGNS = {
    "clean": "✓",
    "content": "**content**",
    "length": "**length**",
    "positions": "**shifted**",
    "ids": "ids",
    "no numbers": "**NaN**",
}


def _cells(found: Mapping[str, Any]) -> tuple[str, ...]:
    row, sizes = row_of(found), found["sizes"]
    moved = [name for name in SIDES if getattr(row, name) in ("length", "positions")]

    def size(probe: str) -> str:
        number = sizes.get(probe, "")
        return "NaN" if number is None else number and f"{number:.0e}"

    def side(name: str) -> str:
        kind = getattr(row, name)
        probe = f"ids under the mask, {name}" if kind == "ids" else name
        return f"{_SIGNS[kind]} {size(probe)}{' (long)' * (name in row.short)}"

    names = [(f"{name}, positions {one}", f"{name} {one}") for name in SIDES for one in CONVENTIONS]
    told = [f"{words}: {size(probe)}" for probe, words in names if probe in sizes and words.split()[0] in moved]
    appends = {"yes": all(row.appends.values()), "no": not any(row.appends.values())}
    some = [attention for attention, holds in row.appends.items() if holds]
    one_pass = next((word for word, holds in appends.items() if holds), f"{', '.join(some)} alone")
    causes = dict.fromkeys(row.causes.values())
    return (
        row.name,
        side("right"),
        side("left"),
        "<br>".join(told) or ("takes none" if moved else ""),
        "**coupled**" if row.coupled else "✓",
        "**keeps**" if row.state else "✓",
        one_pass,
        "vacuous" if row.vacuous else "; ".join([*causes, *_taken_apart(row)]),
        row.advice,
    )
