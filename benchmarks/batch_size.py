"""Draw the cosine of one sentence to itself as its batch grows, with a plain mean and with maskpool.

``python -m benchmarks.batch_size`` runs the bundled all-MiniLM-L6-v2 on a short sentence among the docstrings that
every machine has, and writes ``benchmarks/results/batch_size.json`` and ``batch_size.png``.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from torch.nn.functional import cosine_similarity

from maskpool import pool
from maskpool.bench.design.corpora import docstrings
from maskpool.encoder import BUNDLED, Encoder

mpl.use("agg")
from matplotlib import pyplot as plt

RESULTS = Path(__file__).parent / "results"
SENTENCE = "The cat sat on the mat."
SIZES = (1, 2, 4, 8, 16, 32, 64)
ORDERS = 50


def measure(sizes: tuple[int, ...] = SIZES, orders: int = ORDERS) -> dict[str, Any]:
    """Return the mean cosine of the sentence to itself alone, by batch size, over random companions.

    Args:
        sizes: The batch sizes.
        orders: The number of random orders that companions are taken from.
    """
    encoder = Encoder.load(BUNDLED)
    texts = docstrings().texts
    longest: list[list[int]] = []
    for seed in range(orders):
        companions = random.Random(seed).sample(texts, max(sizes) - 1)
        lengths = [len(ids) for ids in encoder.tokenize([SENTENCE, *companions])[0]]
        longest.append([max(lengths[:size]) for size in sizes])
    ids = encoder.tokenize([SENTENCE])[0]
    cosines = {width: _cosines(encoder, ids[0], width) for width in sorted({w for row in longest for w in row})}

    def mean(name: str, place: int) -> float:
        return round(sum(cosines[row[place]][name] for row in longest) / orders, 4)

    return {
        "command": "python -m benchmarks.batch_size",
        "model": BUNDLED,
        "sentence": SENTENCE,
        "orders": orders,
        "sizes": list(sizes),
        "naive": [mean("naive", place) for place in range(len(sizes))],
        "maskpool": [mean("maskpool", place) for place in range(len(sizes))],
    }


def _cosines(encoder: Encoder, ids: list[int], width: int) -> dict[str, float]:
    """Return the cosine of each pooling's vector of the sentence, padded to ``width``, to its vector alone."""

    def vectors(columns: int) -> dict[str, torch.Tensor]:
        padded = torch.tensor([ids + [encoder.pad_token_id] * (columns - len(ids))])
        mask = (torch.arange(columns) < len(ids)).long().unsqueeze(0)
        with torch.inference_mode():
            states = encoder.model(input_ids=padded, attention_mask=mask).last_hidden_state
        return {"naive": states.mean(dim=1), "maskpool": pool(states, mask, "mean")}

    alone, padded = vectors(len(ids)), vectors(width)
    return {name: float(cosine_similarity(alone[name], padded[name])) for name in alone}


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw both curves into one PNG that is readable at 400 pixels and in grey."""
    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    places = range(len(results["sizes"]))
    axes.plot(places, results["maskpool"], "o-", color="#0072b2", linewidth=2.5, markersize=8)
    axes.plot(places, results["naive"], "s--", color="#d55e00", linewidth=2.5, markersize=8)
    axes.annotate("maskpool", (len(places) - 1, 1), (0, -20), textcoords="offset points", ha="right", fontsize=15)
    axes.annotate("last_hidden_state.mean(1)", (0, min(results["naive"]) - 0.02), ha="left", fontsize=15)
    axes.set_xticks(places, [str(size) for size in results["sizes"]], fontsize=13)
    axes.tick_params(axis="y", labelsize=13)
    axes.set_ylim(min(results["naive"]) - 0.12, 1.06)
    axes.set_xlabel("sentences in the batch", fontsize=14)
    axes.set_ylabel("cosine to itself alone", fontsize=14)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=160, metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    """Measure, and write the results and the figure."""
    results = measure()
    (RESULTS / "batch_size.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    draw(results, RESULTS / "batch_size.png")


if __name__ == "__main__":
    main()
