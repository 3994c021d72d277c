"""Define what an engine does: open the model of a run and embed slices with it, in this process or in others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from maskpool.embed.parts import PartSummary
from maskpool.embed.settings import Settings
from maskpool.embed.sources import Slice


@dataclass(frozen=True)
class OpenModel:
    """The model of a run, opened by an engine.

    Attributes:
        identity: What the vectors depend on, as `maskpool.embed.worker.identity` describes it.
        notes: What opening the model warned of.
        embed: Takes slices, the output folder, and a function that is called with the number of rows that are finished
            since the last call; writes the part of each slice and yields its summary, in any order.
    """

    identity: dict[str, Any]
    notes: Sequence[str]
    embed: Callable[[Sequence[Slice], Path, Callable[[int], None]], Iterator[PartSummary]]


class Engine(Protocol):
    """Embeds the slices of a run."""

    def open(self, settings: Settings) -> AbstractContextManager[OpenModel]:
        """Open the model of a run; the end of the context closes it."""


class LocalEngine:
    """Embeds the slices of a run in this process, one after another."""

    @contextmanager
    def open(self, settings: Settings) -> Iterator[OpenModel]:
        """Open the model of a run.

        Args:
            settings: The settings of the run.

        Yields:
            The model.

        Raises:
            MaskpoolError: The model cannot be opened or pooled.
        """
        from maskpool.embed.worker import embed_slice, identity, open_embedder  # loads transformers

        embedder, notes = open_embedder(settings)

        def embed(slices: Sequence[Slice], out: Path, advance: Callable[[int], None]) -> Iterator[PartSummary]:
            for piece in slices:
                yield embed_slice(piece, embedder, settings, out, advance)

        yield OpenModel(identity(embedder, settings), notes, embed)
