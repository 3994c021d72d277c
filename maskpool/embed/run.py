"""Embed a corpus: plan the slices, embed those that are missing, report what became of every row."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from maskpool.embed.duplicates import COMPARED, repeated_ids
from maskpool.embed.engine import Engine, LocalEngine
from maskpool.embed.manifest import MANIFEST, keep_manifest, manifest_of, read_manifest, refuse_other_run
from maskpool.embed.parts import JOURNAL, PartSummary, finished_parts, not_written, note_part, part_name, write_journal
from maskpool.embed.settings import Dtype, Settings, check_positive
from maskpool.embed.sources import Inputs, SlicePlan, make_plan
from maskpool.errors import ExistsError, InvalidValueError, MaskpoolError, StorageError
from maskpool.files import exclusive
from maskpool.types import Progress

PART_ROWS = 10_000
_LOCK = ".lock"
# A file that a killed run was writing, as atomic_write names it.
_UNFINISHED = re.compile(rf"\.[0-9a-f]{{32}}\.(part-\d+\.parquet|{re.escape(MANIFEST)}|{re.escape(JOURNAL)})")
_LINES_REPORTED = 20


@dataclass(frozen=True)
class EmbedEstimate:
    """What a run would do.

    Attributes:
        files: Files of the input.
        rows: Rows of the input.
        parts: Parts of the output.
        finished: Those that are there already.
        tokens_per_text: The mean over a sample.
        about_seconds: The time of the parts that are missing.
        about_bytes: The size of all vectors.
    """

    files: int
    rows: int
    parts: int
    finished: int
    tokens_per_text: float
    about_seconds: float
    about_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Return the estimate in values that JSON can hold."""
        return asdict(self)


@dataclass(frozen=True)
class EmbedReport:
    """What became of every row of the input.

    Attributes:
        out: The folder.
        rows: Rows of the input, broken lines included.
        vectors: Rows that have a vector.
        missing: Rows without a text, which are kept without a vector.
        dropped: Rows without a text that are left out.
        bad_lines: Broken lines, which are left out.
        bad: The first of them, and what is wrong with each.
        failed: The rows whose texts could not be embedded, with the reason; they are kept without a vector.
        repeated_ids: Rows whose id an earlier row has.
        repeated_in: The first of them.
        truncated: Texts that were cut off at the largest number of tokens of the model.
        tokens: Tokens of all texts.
        pads: The share of pads in all batches.
        parts: Parts of the folder.
        new_parts: Parts that this run wrote; the others were there before.
        notes: What opening the model and reading the input warned of.
    """

    out: str
    rows: int
    vectors: int
    missing: int
    dropped: int
    bad_lines: int
    bad: tuple[str, ...]
    failed: tuple[tuple[int, str], ...]
    repeated_ids: int
    repeated_in: tuple[int, ...]
    truncated: int
    tokens: int
    pads: float
    parts: int
    new_parts: int
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the report in values that JSON can hold."""
        return asdict(self)


def embed_corpus(
    inputs: Inputs,
    out: str | os.PathLike[str],
    model: str | os.PathLike[str] = "all-MiniLM-L6-v2",
    *,
    text_column: str = "text",
    id_column: str | None = None,
    pooling: str | None = None,
    prompt: str | None = None,
    normalize: bool | None = None,
    dtype: Dtype = "float32",
    batch_tokens: int | None = None,
    device: str = "cpu",
    drop_missing: bool = False,
    skip_bad: bool = False,
    part_rows: int = PART_ROWS,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> EmbedReport:
    r"""Embed the texts of files into Parquet parts, in the order of the input and in bounded memory.

    The input is cut into slices; each becomes one part, which is written next to its place and renamed. The same call
    after an interruption embeds only the slices whose parts are missing and ends with the same bytes. The vectors are
    those of `SentenceEmbedder.embed`, independent of the batches.

    Args:
        inputs: A csv, tsv, jsonl or parquet file, a folder of such files, or a glob pattern; or a list of these.
        out: A new or empty folder, or that of the same run.
        model: A model's name on the hub, or its folder.
        text_column: The column of texts.
        id_column: The column of ids, which the parts repeat as strings; None for parts without ids.
        pooling: A mode, with options as in ``"topk_mean(k=3)"``; None pools as the model is saved, else by the mean.
        prompt: Text that is put in front of each text; None applies the default prompt that the model is saved with.
        normalize: Whether vectors have length 1; None as the model is saved.
        dtype: The dtype of the stored vectors, ``"float32"`` or ``"float16"``.
        batch_tokens: The largest number of tokens of a batch, pads included; None is 2,048 on a CPU, 16,384 elsewhere.
        device: The device that the model runs on.
        drop_missing: Leave out rows without a text; otherwise they are kept without a vector.
        skip_bad: Leave out broken lines; otherwise they are refused before anything is embedded.
        part_rows: The largest number of rows of a part. Parts of long texts have fewer.
        engine: What embeds the slices, such as a `maskpool.integrations.ray.RayEngine`; None embeds them in this
            process, one after another.
        progress: Shows the progress, as `maskpool.cli.screen.Screen` does.

    Returns:
        What became of every row.

    Raises:
        InvalidValueError: A column or setting is not accepted.
        NotFoundError: An input or the model does not exist.
        DataError: A line is broken and ``skip_bad`` is False, or the input has no rows.
        ExistsError: ``out`` has other content, or was computed with other settings or inputs.
        StorageError: Another run works in ``out``, or a file cannot be read or written.

    Example:
        >>> import tempfile, pathlib
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "texts.csv").write_text("id,text\n7,A cat sits.\n8,A dog runs.\n")
        >>> report = embed_corpus(folder / "texts.csv", folder / "vectors", id_column="id")
        >>> report.vectors, report.missing, sorted(path.name for path in (folder / "vectors").iterdir())
        (2, 0, ['part-000000.parquet', 'parts.jsonl', 'run.json'])
    """
    settings = Settings(
        model=os.fspath(model),
        text_column=text_column,
        id_column=id_column,
        pooling=pooling,
        prompt=prompt,
        normalize=normalize,
        dtype=dtype,
        batch_tokens=batch_tokens,
        device=device,
        drop_missing=drop_missing,
        skip_bad=skip_bad,
    )
    return run(inputs, Path(out), settings, part_rows, engine, progress)


def run(
    inputs: Inputs,
    folder: Path,
    settings: Settings,
    part_rows: int = PART_ROWS,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> EmbedReport:
    """Embed a corpus: `embed_corpus` with its settings in one object.

    Args:
        inputs: As in `embed_corpus`.
        folder: Its ``out``.
        settings: Its settings.
        part_rows: As in `embed_corpus`.
        engine: The same.
        progress: The same.

    Raises:
        MaskpoolError: As `embed_corpus`.
    """
    plan = _planned(inputs, folder, settings, part_rows)
    with (engine or LocalEngine()).open(settings) as opened, _working_in(folder):
        keep_manifest(folder, manifest_of(opened.identity, settings, plan, part_rows))
        finished = finished_parts(folder)
        missing = [piece for piece in plan.slices if piece.number not in finished]
        done = sum(summary.input_rows for summary in finished.values())
        with progress.task("embedding", plan.rows) if progress else nullcontext(lambda _: None) as advance:
            advance(done)
            for summary in opened.embed(missing, folder, advance):
                note_part(folder, summary)
                finished[summary.number] = summary
        write_journal(folder, finished.values())
    return _report(folder, plan, list(finished.values()), len(missing), opened.notes, settings)


def dry_run(inputs: Inputs, folder: Path, settings: Settings, part_rows: int = PART_ROWS) -> EmbedEstimate:
    """Check the input, the model and the folder of a run and estimate what it takes; write nothing.

    Args:
        inputs: As in `embed_corpus`.
        folder: Its ``out``.
        settings: Its settings.
        part_rows: As in `embed_corpus`.

    Raises:
        MaskpoolError: As `embed_corpus`.
    """
    from maskpool.embed.estimate import estimate  # loads transformers
    from maskpool.embed.worker import identity, open_embedder

    plan = _planned(inputs, folder, settings, part_rows)
    embedder, _ = open_embedder(settings)
    refuse_other_run(folder, manifest_of(identity(embedder, settings), settings, plan, part_rows))
    finished = {piece.number for piece in plan.slices if (folder / part_name(piece.number)).is_file()}
    return estimate(plan, finished, embedder, settings)


def _planned(inputs: Inputs, folder: Path, settings: Settings, part_rows: int) -> SlicePlan:
    check_positive("part_rows", part_rows)
    _refuse_foreign(folder)
    plan = make_plan(inputs, settings, part_rows)
    _refuse_inside(folder, plan)
    return plan


def _refuse_foreign(out: Path) -> None:
    """Refuse a folder with content that no embedding run wrote, before anything is read."""
    try:
        names = {path.name for path in out.iterdir()}
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise ExistsError("out", f"must be a folder, got the file {out}") from None
    except OSError as error:
        raise StorageError(f"{out} cannot be read: {error.strerror or error}", argument="out") from error
    others = sorted(name for name in names - {_LOCK} if not _UNFINISHED.fullmatch(name))
    if others and read_manifest(out) is None:
        raise ExistsError(
            "out", f"must be a new or empty folder, or one of a run that can be resumed; {out} has {others[0]}"
        )


def _refuse_inside(out: Path, plan: SlicePlan) -> None:
    """Refuse to read parts as inputs: the second run would embed the result of the first."""
    here = out.resolve()
    for file in plan.files:
        if Path(file.path).resolve().is_relative_to(here):
            raise InvalidValueError("out", f"must not hold the input, but {file.path} is in {out}")


@contextmanager
def _working_in(out: Path) -> Iterator[None]:
    """Create a folder, lock it, and remove what killed processes were writing, before and after.

    Raises:
        StorageError: Another run works in the folder, or it cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / _LOCK
        probe.touch()
    except OSError as error:
        raise StorageError(f"{out} cannot be written: {error.strerror or error}", argument="out") from error
    try:
        with exclusive(probe):
            _remove_unfinished(out)
            yield
            _remove_unfinished(out)
    except BlockingIOError:
        raise StorageError(
            f"another run is working in {out}: wait for it, or choose another folder", argument="out"
        ) from None
    except OSError as error:
        if isinstance(error, MaskpoolError):
            raise
        raise not_written(out, error) from error


def _remove_unfinished(out: Path) -> None:
    for path in out.iterdir():
        if _UNFINISHED.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _report(
    out: Path,
    plan: SlicePlan,
    summaries: Sequence[PartSummary],
    new_parts: int,
    notes: Sequence[str],
    settings: Settings,
) -> EmbedReport:
    repeated: list[int] = []
    if settings.id_column is not None:
        repeated, complete = repeated_ids([out / part_name(piece.number) for piece in plan.slices])
        if not complete:
            notes = [*notes, f"ids behind the first {COMPARED:,} were compared only with those of their part"]
    positions = sum(summary.positions for summary in summaries)
    tokens = sum(summary.tokens for summary in summaries)
    failed = sorted(failure for summary in summaries for failure in summary.failed)
    missing = sum(summary.missing for summary in summaries)
    bad = [f"line {line} of {file.path} {problem}" for file in plan.files for line, problem in file.bad]
    empty = [Path(file.path).name for file in plan.files if not file.rows]
    left_out = [Path(name).name for name in plan.left_out]
    return EmbedReport(
        out=str(out),
        rows=plan.rows,
        vectors=sum(summary.rows for summary in summaries) - missing - len(failed),
        missing=missing,
        dropped=sum(summary.dropped for summary in summaries),
        bad_lines=sum(summary.bad for summary in summaries),
        bad=tuple(bad[:_LINES_REPORTED]),
        failed=tuple(failed),
        repeated_ids=len(repeated),
        repeated_in=tuple(repeated[:_LINES_REPORTED]),
        truncated=sum(summary.truncated for summary in summaries),
        tokens=tokens,
        pads=1 - tokens / positions if positions else 0.0,
        parts=len(summaries),
        new_parts=new_parts,
        notes=(
            *notes,
            *([f"files without rows: {_named(empty)}"] if empty else []),
            *([f"files of other formats, left out: {_named(left_out)}"] if left_out else []),
        ),
    )


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
