"""The pads of a model: what they are, measured, and how to keep their row unchanged in training."""

from maskpool.pads.explanation import TEXTS, Answer, Explanation, explain
from maskpool.pads.row import FrozenRow, freeze_pad_row, input_embedding, tied_heads

__all__ = [
    "TEXTS",
    "Answer",
    "Explanation",
    "FrozenRow",
    "explain",
    "freeze_pad_row",
    "input_embedding",
    "tied_heads",
]
