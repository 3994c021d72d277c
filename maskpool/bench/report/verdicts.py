"""Verdicts: what the interval of a difference allows to be said, by one rule with a margin fixed beforehand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from scipy import optimize, stats

from maskpool.nn import POOLINGS

Row = dict[str, Any]
# The words that a headline opens with, by kind and whether the interval is inside the margin; the worst first.
_LEADS = {
    ("lowered", False): "harmed",
    ("unknown", False): "could not tell",
    ("lowered", True): "harmed by less than the margin",
    ("no change", True): "no change larger than {margin:g}",
    ("identical", True): "identical vectors",
    ("raised", True): "raised by less than the margin",
    ("raised", False): "raised",
}
_SEVERITY = {kind: rank for rank, kind in enumerate(_LEADS)}


def signed(value: float) -> str:
    """Format a number with its sign and three decimals; a number that rounds to zero is never negative.

    Example:
        >>> signed(-0.0004), signed(-0.0123)
        ('+0.000', '−0.012')
    """
    return f"{value:+z.3f}".replace("-", "−")


def difference(row: Row) -> str:
    """Format a difference with its interval; a difference of 0 without any error is only 0.

    Example:
        >>> difference({"delta": -0.0123, "low": -0.02, "high": -0.0004})
        '−0.012 [−0.020, +0.000]'
    """
    if row["delta"] == row["low"] == row["high"] == 0:
        return "0"
    return f"{signed(row['delta'])} [{signed(row['low'])}, {signed(row['high'])}]"


def shift_of(row: Row) -> str:
    """Format how far vectors move; those that do not move are identical, and others never move by 0.000.

    Example:
        >>> shift_of({"cosine_shift": 0.0123}), shift_of({"cosine_shift": -1e-9}), shift_of({})
        ('0.012', '<0.001', 'identical')
    """
    if row.get("identical", "cosine_shift" not in row):
        return "identical"
    return _size(row["cosine_shift"])


def kept_of(row: Row) -> str:
    """Format the share of neighbours that are kept; 1.00 is only shown if all are.

    Example:
        >>> kept_of({"neighbours_kept": 0.998}), kept_of({"neighbours_kept": 1.0})
        ('>0.99', '1.00')
    """
    kept = row.get("neighbours_kept", 1.0)
    return ">0.99" if 0.995 <= kept < 1 else f"{kept:.2f}"


def judge(row: Row, margin: float, seeds: int) -> dict[str, Any]:
    """Judge a difference by its interval and the margin.

    The vectors are those of the texts alone: identical. The interval excludes 0: lowered or raised. It covers 0 and
    lies inside ±margin: no change. Otherwise the verdict is unknown, with what would settle it: the half-width q·SE
    must shrink to max(|d|, margin − |d|), where the sampling part of SE² shrinks as 1/texts and the seed part as
    1/seeds. With more seeds q shrinks as well, because SE² gets as many more degrees of freedom.

    Args:
        row: The difference: ``metric``, ``texts``, ``delta``, ``low`` and ``high``; ``identical`` if the vectors were
            compared; ``sampling_variance``, ``seed_variance``, ``quantile`` and ``freedom`` if the parts of its error
            are known.
        margin: The largest difference that counts as small.
        seeds: Number of seeds that the difference is a mean over.

    Returns:
        ``kind``, ``within_margin`` (whether the interval is inside ±margin), ``sentence``, and ``texts_needed`` and
        ``seeds_needed``, each of which would settle an unknown verdict without the other; None if it would not.
        ``both_needed`` are a number of texts and one of seeds that would settle it together.

    Example:
        >>> row = {"metric": "AMI", "texts": 100, "delta": -0.042, "low": -0.064, "high": -0.020}
        >>> judge(row, 0.03, 5)["sentence"]
        'lowered AMI by 0.042 [0.020, 0.064]'
    """
    low, high = row["low"], row["high"]
    verdict = {
        "kind": "unknown",
        "within_margin": -margin <= low and high <= margin,
        "texts_needed": None,
        "seeds_needed": None,
        "both_needed": None,
    }
    if row.get("identical", False):
        return verdict | {
            "kind": "identical",
            "within_margin": True,
            "sentence": "identical: the vectors are those of the texts alone",
        }
    if low > 0 or high < 0:
        kind = "raised" if low > 0 else "lowered"
        size, least, most = (_size(value) for value in (row["delta"], *sorted((low, high), key=abs)))
        small = f", less than the margin of {margin:g}" if verdict["within_margin"] else ""
        return verdict | {"kind": kind, "sentence": f"{kind} {row['metric']} by {size} [{least}, {most}]{small}"}
    if verdict["within_margin"]:
        return verdict | {"kind": "no change", "sentence": f"no change larger than {margin:g} ({difference(row)})"}
    between = f"could not tell: between {signed(low)} and {signed(high)}"
    if "quantile" not in row:
        return verdict | {"sentence": between}
    sampling, seed = row["sampling_variance"], row["seed_variance"]
    half_width = max(abs(row["delta"]), margin - abs(row["delta"]))
    target = (half_width / row["quantile"]) ** 2
    texts_needed = _rounded(row["texts"] * sampling / (target - seed)) if target > seed and sampling > 0 else None
    seeds_needed = _enough(row, half_width, sampling, seed, seeds) if seed > 0 else None
    both_needed = texts_needed or row["texts"], seeds if texts_needed else seeds_needed
    if texts_needed and seeds_needed:
        settles = f"about {texts_needed:,} texts or about {seeds_needed:,} seeds would settle it"
    elif texts_needed:
        settles = f"about {texts_needed:,} texts would settle it; more seeds would not"
    elif seeds_needed:
        # Where no sampling part was seen, texts cannot be ruled out.
        settles = f"about {seeds_needed:,} seeds would settle it" + "; more texts would not" * (sampling > 0)
    else:
        factor = (sampling + seed) / target
        both_needed = _rounded(row["texts"] * factor), _rounded(seeds * factor)
        settles = f"neither more texts nor more seeds alone would settle it; {_both(*both_needed)} would"
    return verdict | {
        "sentence": f"{between}; {settles}",
        "texts_needed": texts_needed,
        "seeds_needed": seeds_needed,
        "both_needed": list(both_needed),
    }


def _enough(row: Row, half_width: float, sampling: float, seed: float, seeds: int) -> int | None:
    """Return how many seeds give the half-width, or None if no number does."""
    tail = stats.t.sf(row["quantile"], row["freedom"])

    def too_wide(factor: float) -> float:
        quantile = stats.t.isf(tail, row["freedom"] * factor)
        return float(quantile * math.sqrt(sampling + seed / factor) - half_width)

    most = 1e6
    return None if too_wide(most) > 0 else _rounded(seeds * optimize.brentq(too_wide, 0.5, most))


def _both(texts: int, seeds: int) -> str:
    return f"about {texts:,} texts with {seeds:,} seeds"


def _size(value: float) -> str:
    """Format the size of a number that may be small but is not 0."""
    return f"{abs(value):.3f}" if abs(value) >= 0.0005 else "<0.001"


def _rounded(number: float) -> int:
    """Round up to two significant digits."""
    unit: int = 10 ** max(math.floor(math.log10(number)) - 1, 0)
    return math.ceil(round(number / unit, 6)) * unit  # rounding noise would add a unit


def short(row: Row, margin: float) -> str:
    """Return a verdict in the few words of a table's cell.

    Example:
        >>> short({"verdict": {"kind": "lowered", "within_margin": True}}, 0.03)
        'lowered by < 0.03'
    """
    kind, within = row["verdict"]["kind"], row["verdict"]["within_margin"]
    if kind == "no change":
        return f"no change above {margin:g}"
    if kind == "unknown":
        return "could not tell"
    return f"{kind} by < {margin:g}" if within and kind != "identical" else str(kind)


def severity(row: Row) -> tuple[int, float]:
    """Return the sort key of a row with its verdict: the most harmful first."""
    return _SEVERITY[row["verdict"]["kind"], row["verdict"]["within_margin"]], row["delta"]


def headline(rows: Sequence[Row], margin: float, confounded: Sequence[str]) -> list[str]:
    """Say what every plan did to the clusters, one sentence per pooling, the worst pooling and plan first.

    Args:
        rows: The rows with pads included, with their verdicts.
        margin: The margin of the verdicts.
        confounded: Names of the plans whose padded lengths follow the labels.
    """
    sentences = []
    for pooling, of_pooling in _by_pooling(rows):
        clauses = []
        for kind, group in groupby(of_pooling, lambda row: severity(row)[0]):
            rows_of_kind = list(group)
            unknown = rows_of_kind[0]["verdict"]["kind"] == "unknown"
            plans = [f"“{row['plan']}”{_detail(row, row['plan'] in confounded)}" for row in rows_of_kind]
            lead = list(_LEADS.values())[kind].format(margin=margin)
            clauses.append(f"{lead} under {joined(plans)}{_unknown(rows_of_kind) if unknown else ''}")
        sentences.append(f"{pooling}: {'; '.join(clauses)}.")
    return sentences


def shift_headline(rows: Sequence[Row]) -> list[str]:
    """Say how far every plan moved the vectors, one sentence per pooling.

    Args:
        rows: The rows with pads included, with their verdicts.
    """
    sentences = []
    for pooling, of_pooling in _by_pooling(rows):
        shifts: dict[bool, list[str]] = {}
        for row in sorted(of_pooling, key=lambda row: -abs(row["cosine_shift"])):
            still = shift_of(row) == "identical"
            numbers = "" if still else f"{shift_of(row)} "
            kept = "" if still else f" (neighbours kept: {kept_of(row)})"
            shifts.setdefault(still, []).append(f"{numbers}under “{row['plan']}”{kept}")
        words = {False: "vectors move by a cosine shift of", True: "identical vectors"}
        clauses = [f"{words[still]} {joined(shifts[still])}" for still in (False, True) if still in shifts]
        sentences.append(f"{pooling}: {'; '.join(clauses)}.")
    return sentences


def advice(rows: Sequence[Row], margin: float, confounded: Sequence[str]) -> str:
    """Say what to do, given the verdicts on the rows with pads included.

    Args:
        rows: The rows with pads included, with their verdicts.
        margin: The margin of the verdicts.
        confounded: Names of the plans whose padded lengths follow the labels. A harm under one is said with that, and
            the other sentences are only about the other plans.
    """
    rows = sorted(rows, key=severity)
    verdicts = [row["verdict"] for row in rows if row["plan"] not in confounded]
    harmed = [row for row in rows if (row["verdict"]["kind"], row["verdict"]["within_margin"]) == ("lowered", False)]
    surely = dict.fromkeys(row["pooling"] for row in harmed if row["plan"] not in confounded)
    unknown = any(verdict["kind"] == "unknown" for verdict in verdicts)
    if surely:
        untold = dict.fromkeys(
            row["pooling"]
            for row in rows
            if row["verdict"]["kind"] == "unknown" and row["plan"] not in confounded and row["pooling"] not in surely
        )
        open_question = f" For {joined(list(untold))} pooling this study could not tell." if untold else ""
        return (
            "Pass the attention mask to the pooling: with the pads pooled as well, the clusters of "
            f"{joined(list(surely))} pooling got worse.{open_question}"
        )
    if harmed:
        if not verdicts:
            then = "Measure in random batches to find out."
        elif unknown:
            then = "Measure the other plans again with more texts or more seeds to find out."
        else:
            then = f"Under the other plans, pooling the pads lowers AMI by no more than {margin:g}."
        return (
            f"Pass the attention mask to the pooling: AMI of {harmed[0]['pooling']} pooling fell by "
            f"{_size(harmed[0]['delta'])} under “{harmed[0]['plan']}”. The padded length follows the labels there, so "
            f"this study cannot say whether pads or length did it. {then}"
        )
    if not verdicts:
        return "Nothing was compared with pads included under a plan that does not follow the labels."
    if unknown:
        return (
            "Pass the attention mask to the pooling: the pads move the vectors, and this study could not tell whether "
            "that harms these clusters. Measure again with more texts or more seeds to find out."
        )
    others = any(row["plan"] in confounded and row["verdict"]["kind"] != "identical" for row in rows)
    where = " under the plans whose padded length does not follow the labels" if others else ""
    if verdicts[0]["kind"] == "lowered":
        return f"Little depends on it for these clusters{where}: pooling the pads lowers AMI by less than {margin:g}."
    if verdicts[-1]["kind"] == "raised":
        return f"No harm to these clusters was shown{where}. Measure other texts before you rely on a gain from pads."
    return f"Nothing has to change for these clusters{where}: pooling the pads changes AMI by no more than {margin:g}."


def _by_pooling(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Return the rows of each pooling, named as a sentence begins, the worst pooling and plan first."""
    of_pooling: dict[str, list[Row]] = {}
    for row in sorted(rows, key=severity):
        mode = row["pooling"]
        of_pooling.setdefault(f"{mode.capitalize() if mode in POOLINGS else mode} pooling", []).append(row)
    return list(of_pooling.items())


def _detail(row: Row, confounded: bool) -> str:
    """Return the numbers of a known verdict, and whether its plan is confounded, in parentheses."""
    kind, sentence = row["verdict"]["kind"], row["verdict"]["sentence"]
    parts = ["confounded with the labels"] if confounded and kind != "identical" else []
    if kind == "no change":
        parts.append(difference(row))
    elif kind in ("lowered", "raised"):
        parts.append(sentence)
    return f" ({'; '.join(parts)})" if parts else ""


def _unknown(rows: Sequence[Row]) -> str:
    """Return in parentheses the range of unknown differences and what would settle all; the table has the rest."""
    low, high = min(row["low"] for row in rows), max(row["high"] for row in rows)
    verdicts = [row["verdict"] for row in rows]
    enough = [
        f"about {max(verdict[f'{what}_needed'] for verdict in verdicts):,} {what}"
        for what in ("texts", "seeds")
        if all(verdict[f"{what}_needed"] for verdict in verdicts)
    ]
    if not enough and all(verdict["both_needed"] for verdict in verdicts):
        enough = [_both(*map(max, zip(*(verdict["both_needed"] for verdict in verdicts), strict=True)))]
    settles = f"; {' or '.join(enough)} would settle {'all' if len(rows) > 1 else 'it'}" if enough else ""
    return f" (between {signed(low)} and {signed(high)}{settles})"


def joined(clauses: Sequence[str]) -> str:
    """Join words as an enumeration.

    Example:
        >>> joined(["mean", "max", "cls"])
        'mean, max and cls'
    """
    *others, last = clauses
    return f"{', '.join(others)} and {last}" if others else last
