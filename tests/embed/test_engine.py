"""A run on another engine: what it gets, and that its parts are those of the local engine."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from maskpool import embed_corpus
from maskpool.embed.engine import LocalEngine, OpenModel
from maskpool.embed.parts import PartSummary
from maskpool.embed.settings import Settings
from maskpool.embed.sources import Slice
from maskpool.errors import ExistsError
from tests.command import content


class Elsewhere:
    """Embeds pickled slices, the last one first, and returns pickled summaries, as an engine of other processes does.

    Args:
        leaves: The name of a file that a killed process leaves in the folder.
    """

    def __init__(self, leaves: str = "") -> None:
        self.leaves, self.closed = leaves, False

    @contextmanager
    def open(self, settings: Settings) -> Iterator[OpenModel]:
        with LocalEngine().open(pickle.loads(pickle.dumps(settings))) as local:

            def embed(slices: Sequence[Slice], out: Path, advance: Callable[[int], None]) -> Iterator[PartSummary]:
                if self.leaves:
                    (out / self.leaves).touch()
                for piece in reversed(pickle.loads(pickle.dumps(list(slices)))):
                    for summary in local.embed([piece], out, advance):
                        yield pickle.loads(pickle.dumps(summary))

            try:
                yield OpenModel(local.identity, [*local.notes, "elsewhere"], embed)
            finally:
                self.closed = True


def test_another_engine_writes_the_same_bytes(corpus: Path, model: Path, tmp_path: Path) -> None:
    """An engine that embeds slices elsewhere and in another order gives the folder and the report of the local one."""
    engine = Elsewhere()
    here = embed_corpus(corpus, tmp_path / "here", model, part_rows=13)
    report = embed_corpus(corpus, tmp_path / "there", model, part_rows=13, engine=engine)
    assert content(tmp_path / "there") == content(tmp_path / "here")
    assert report.notes == (*here.notes, "elsewhere")
    assert {**report.as_dict(), "out": "", "notes": ()} == {**here.as_dict(), "out": "", "notes": ()}
    assert engine.closed


def test_what_a_killed_process_of_an_engine_leaves_is_removed(corpus: Path, model: Path, tmp_path: Path) -> None:
    """The unfinished file of a process that was killed during the run is not in the finished folder."""
    embed_corpus(corpus, tmp_path / "here", model, part_rows=13)
    engine = Elsewhere(leaves=f".{'0' * 32}.part-000001.parquet")
    embed_corpus(corpus, tmp_path / "there", model, part_rows=13, engine=engine)
    assert content(tmp_path / "there") == content(tmp_path / "here")


def test_the_engine_is_closed_after_an_error(corpus: Path, model: Path, tmp_path: Path) -> None:
    """An engine is closed if the run fails."""
    embed_corpus(corpus, tmp_path / "out", model)
    engine = Elsewhere()
    with pytest.raises(ExistsError):
        embed_corpus(corpus, tmp_path / "out", model, part_rows=13, engine=engine)
    assert engine.closed
