"""The command line: argument parsing and printing only."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from maskpool import __version__
from maskpool.errors import MaskpoolError, UserError, printable

# Exit codes. Only the audit ends with LEAK.
SUCCESS, LEAK, FAILURE, UNKNOWN, INTERRUPTED = 0, 1, 2, 3, 130

try:
    import typer
    from rich.console import Console
    from rich.text import Text
    from typer.rich_utils import rich_format_error
except ImportError as missing:
    missing_name = missing.name or str(missing)
    print(
        f'maskpool: {missing_name} is not installed; the command needs: pip install "maskpool[bench]"', file=sys.stderr
    )
    sys.exit(FAILURE)

if TYPE_CHECKING:
    from rich.console import Group

    from maskpool.bench.folder import StudyFolder
    from maskpool.bench.study import Study

# Texts that --explain measures on.
_EXPLAINED_TEXTS = 32

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"maskpool {__version__}")
        raise typer.Exit


class _Debug:
    """Whether errors show their traceback."""

    wanted = False


@app.callback()
def maskpool(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Pool real tokens only, and measure what pooling over pads does."""
    _Debug.wanted = debug


bench_app = typer.Typer(invoke_without_command=True, rich_markup_mode="markdown")
app.add_typer(bench_app, name="bench")
_MEASURED, _HOW, _OUTPUT = "What is measured", "How", "Output"


@bench_app.callback()
def bench(
    context: typer.Context,
    model: Annotated[
        str, typer.Option(help="A model's name on the hub, or its folder.", rich_help_panel=_MEASURED)
    ] = "all-MiniLM-L6-v2",
    data: Annotated[
        Path | None,
        typer.Option(
            help="Labelled texts: a csv, tsv, jsonl or parquet file. Default: public docstrings, a demonstration.",
            show_default=False,
            rich_help_panel=_MEASURED,
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="One of MTEB's clustering tasks by name.", show_default=False, rich_help_panel=_MEASURED),
    ] = None,
    hub: Annotated[
        str | None,
        typer.Option(help="A labelled dataset by its name on the hub.", show_default=False, rich_help_panel=_MEASURED),
    ] = None,
    split: Annotated[str, typer.Option(help="Of --hub.", rich_help_panel=_MEASURED)] = "test",
    newsgroups: Annotated[
        bool, typer.Option("--newsgroups", help="scikit-learn's 20 newsgroups.", rich_help_panel=_MEASURED)
    ] = False,
    text_column: Annotated[str, typer.Option(rich_help_panel=_MEASURED)] = "text",
    label_column: Annotated[str, typer.Option(rich_help_panel=_MEASURED)] = "label",
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Take a sample of so many texts, stratified by label.", rich_help_panel=_MEASURED),
    ] = None,
    study: Annotated[
        Path | None,
        typer.Option(
            help="A study as a TOML file, in place of the options above and below.",
            show_default=False,
            rich_help_panel=_MEASURED,
        ),
    ] = None,
    pooling: Annotated[
        list[str],
        typer.Option(
            help="Modes, or folders of trained heads; repeat the option, or separate them by commas.",
            rich_help_panel=_HOW,
        ),
    ] = ["mean,max,attention"],  # noqa: B006  # typer shows it and copies it
    pad_to: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The fixed padded length. Default: 128, or the longest text if that is longer.",
            show_default=False,
            rich_help_panel=_HOW,
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts in a batch of the plans.", rich_help_panel=_HOW)] = 32,
    seeds: Annotated[int, typer.Option(min=2, help="k-means seeds.", rich_help_panel=_HOW)] = 5,
    device: Annotated[str, typer.Option(help="Where the model runs.", rich_help_panel=_OUTPUT)] = "cpu",
    out: Annotated[
        Path, typer.Option(help="Folder for cells and reports; a study begun there goes on.", rich_help_panel=_OUTPUT)
    ] = Path("maskpool-bench"),
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would be computed and how long it takes.", rich_help_panel=_OUTPUT),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print nothing but errors.", rich_help_panel=_OUTPUT)
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the results as JSON and nothing else.", rich_help_panel=_OUTPUT)
    ] = False,
) -> None:
    """Measure what pooling over pads does to embeddings and their clusters.

    One forward pass of a model over labelled texts gives the vectors of every padding plan, with pads
    excluded and included; k-means clusters them, and the table says how far the clusters moved from
    the labels, with intervals. Without options it takes about two minutes on two cores. What is finished is
    kept: a run that was stopped goes on where it was.
    """
    if context.invoked_subcommand is not None:
        return
    with _stoppable(out), _arguments_as_options(name="--model", device="--device", path="--study"):
        given = [name for name in context.params if _was_given(context, name)]
        screen = _Screen(silent=quiet or as_json)
        with _needs_bench():
            screen.say("loading …")
            from maskpool.bench import report
            from maskpool.bench.folder import StudyFolder
            from maskpool.bench.results import results_of
            from maskpool.bench.run import run_study
            from maskpool.bench.study import CorpusSource, Study, find_pooling, read_study
        if study is not None:
            also = [name for name in given if name not in ("study", "device", "out", "dry_run", "quiet", "as_json")]
            if also:
                options = ", ".join("--" + name.replace("_", "-") for name in also)
                raise UserError(f"--study says what is measured: give {options} in {study.name} instead")
            asked, base = read_study(study), study.parent
        else:
            several = [name for name in ("data", "task", "hub", "newsgroups") if name in given]
            if len(several) > 1:
                options = ", ".join("--" + name for name in several)
                raise UserError(f"only one corpus can be measured at a time, got {options}; a --study may have more")
            source = CorpusSource(
                data=str(data) if data is not None else None,
                task=task,
                hub=hub,
                newsgroups=newsgroups,
                docstrings=not several,
                split=split,
                text_column=text_column,
                label_column=label_column,
                limit=limit,
            )
            modes = tuple(dict.fromkeys(mode.strip() for entry in pooling for mode in entry.split(",")))
            for mode in modes:
                find_pooling(mode, "--pooling")
            asked, base = Study((model,), (source,), modes, batch_size=batch_size, pad_to=pad_to, seeds=seeds), Path()
        folder = StudyFolder(out)
        if dry_run:
            _print_estimate(asked, base, folder, device, screen, as_json)
            return
        folder.check()
        notes = [] if screen.silent else [n for name in asked.models for n in _note_on_pooling(name, asked.poolings)]
        run_study(asked, base, folder, device, screen)
        results = results_of(folder)
        written = report.write(results, folder)
        if as_json:
            print(json.dumps(results))
        if screen.silent:
            return
        _print_wide(report.show(results))
        for part in results["parts"]:
            if part["corpus"]["truncated"]:
                print(f"{part['corpus']['truncated']} texts were cut off at {part['model']['max_length']} tokens.")
        for note in notes:
            print(f"note: {note}")
        print(f"Written to {str(out).rstrip('/')}/: {', '.join(written)}")


@bench_app.command("report")
def rebuild_report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a finished study.")],
) -> None:
    """Rebuild the report of a finished study from its cells."""
    with _stoppable():
        with _needs_bench():
            from maskpool.bench import report
            from maskpool.bench.folder import StudyFolder
            from maskpool.bench.results import results_of
        there = StudyFolder(folder)
        print(f"Written to {str(folder).rstrip('/')}/: {', '.join(report.write(results_of(there), there))}")


@bench_app.command("compare")
def compare_studies(
    first: Annotated[Path, typer.Argument(metavar="DIR_A", help="The folder of a finished study.")],
    second: Annotated[Path, typer.Argument(metavar="DIR_B", help="The folder of another.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Compare two finished studies, row by row."""
    with _stoppable():
        with _needs_bench():
            from maskpool.bench import compare
            from maskpool.bench.folder import StudyFolder
            from maskpool.bench.report import markdown_table
            from maskpool.bench.results import results_of
        found = compare.compare(results_of(StudyFolder(first)), results_of(StudyFolder(second)))
        if as_json:
            print(json.dumps(found))
            return
        print("\n".join(markdown_table(compare.HEADER, compare.table(found))))
        for name, one, other in found["settings"]:
            print(f"{name}: {json.dumps(one)} in A, {json.dumps(other)} in B")
        if found["only_in_a"] or found["only_in_b"]:
            print(f"{found['only_in_a']} rows are only in A, {found['only_in_b']} only in B.")


@contextlib.contextmanager
def _stoppable(out: Path | None = None) -> Iterator[None]:
    """Turn Ctrl-C at any time into one sentence and exit code 130.

    Args:
        out: The folder of a study that can be resumed.
    """
    try:
        yield
    except KeyboardInterrupt:
        words = "stopped"
        if out is not None:
            cells = out / "cells.jsonl"  # counted as lines: the code that reads them may not be loaded yet
            finished = cells.read_bytes().count(b"\n") if cells.is_file() else 0
            words = f"stopped; {finished} finished cells are in {out}: the same command resumes from there"
        print(f"maskpool: {words}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    except EOFError as error:
        raise typer.Abort from error  # typer does the same and also prints an empty line


@contextlib.contextmanager
def _arguments_as_options(**options: str) -> Iterator[None]:
    """Name the option in an error that names an argument: ``name must be …`` becomes ``--model must be …``.

    Args:
        **options: The option of each argument.
    """
    try:
        yield
    except MaskpoolError as error:
        argument, must, rest = str(error).partition(" must ")
        if must and argument in options:
            raise UserError(f"{options[argument]}{must}{rest}") from error
        raise


@app.command()
def audit(
    model: Annotated[str, typer.Argument(metavar="NAME_OR_PATH", help="A model's folder, or its name on the hub.")],
    pooling: Annotated[
        str | None,
        typer.Option(
            help="Pool the transformer's token states by this mode. Default: as the model is saved, else the mean.",
            show_default=False,
        ),
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            help="Texts to audit with, one a line; at least three, and of more than 32 a sample. Default: short ones.",
            show_default=False,
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also say what the pads of this model are, with its numbers.")
    ] = False,
    device: Annotated[str, typer.Option(help="Where the model runs.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Say whether padding changes a model's sentence vectors, and why.

    Exit code 0: clean; 1: a leak, with its cause and the fix; 2: an error; 3: unknown, with the reason.
    """
    options = {"name": "NAME_OR_PATH", "device": "--device", "texts": "--texts", "pooling_mode": "--pooling"}
    with _stoppable(), _arguments_as_options(**options):
        with _needs_bench():
            from maskpool.audit import audit_padding
            from maskpool.audit.explain import explain as explain_pads
            from maskpool.audit.opening import open_pipeline
            from maskpool.encoder import Encoder
        chosen = None if texts is None else _read_texts(texts)
        screen = _Screen(silent=as_json)
        with _as_user_errors(), screen.status(f"loading {model}") as show:
            pipeline = open_pipeline(model, pooling, device)
            notes = [] if pooling is None else _note_on_pooling(model, [pooling])
            report = audit_padding(
                pipeline, chosen, on_call=lambda calls: show(f"auditing {model}: {calls} calls of the pipeline")
            )
        sample, note = _sample(chosen) if explain else (None, [])
        found = {"model": model, **report.to_dict()}
        found["notes"] += notes + note
        # The verdict comes first: it must not be lost if the explanation fails.
        if not as_json:
            print("\n".join([str(report), *(f"note: {note}" for note in notes + note)]))
        try:
            if explain:
                with _as_user_errors(), screen.status(f"explaining the pads of {model}"):
                    answers = explain_pads(Encoder.load(model, device), sample)
                found["explanation"] = answers.to_dict()
        finally:
            if as_json:
                print(json.dumps(found))
        if explain and not as_json:
            print(f"\n{answers}")
    raise typer.Exit({"clean": SUCCESS, "leaks": LEAK, "unknown": UNKNOWN}[report.verdict])


@contextlib.contextmanager
def _as_user_errors() -> Iterator[None]:
    """Turn errors of Python arguments into one sentence of ours."""
    try:
        yield
    except (TypeError, ValueError, ImportError) as error:
        if isinstance(error, MaskpoolError):
            raise
        raise UserError((str(error).strip() or type(error).__name__).splitlines()[0]) from error


def _read_texts(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--texts must be a file of texts in UTF-8, one a line, got {path}: {error}") from error


def _sample(texts: list[str] | None) -> tuple[list[str] | None, list[str]]:
    """Take a seeded sample of many texts, with a note that says so."""
    if texts is None or len(texts) <= _EXPLAINED_TEXTS:
        return texts, []
    note = f"the explanation measures a sample of {_EXPLAINED_TEXTS} of the {len(texts)} texts (seed 0)"
    return random.Random(0).sample(texts, _EXPLAINED_TEXTS), [note]


def _print_estimate(study: Study, base: Path, folder: StudyFolder, device: str, screen: _Screen, as_json: bool) -> None:
    from maskpool.bench.estimate import estimate
    from maskpool.bench.parts import versions
    from maskpool.bench.run import load_corpora, load_parts, refuse_other_weights

    corpora = load_corpora(study, base)
    folder.refuse_others(study, corpora, versions())
    found = []
    for part in load_parts(study, corpora, device):
        refuse_other_weights(part, folder)
        found.append(estimate(part, folder.cells))
    if as_json:
        print(json.dumps(found))
    if screen.silent:
        return
    for one in found:
        seconds = one["about_seconds"]
        passes = (
            "one pass for all right-padded plans"
            if one["one_pass_for_all_right_padded_plans"]
            else "plans run for real"
        )
        print(
            f"{one['model']} on {one['corpus']}: {one['cells']} cells, {one['finished']} finished; "
            f"{one['texts_for_the_encoder']} texts for the encoder ({passes}), about {seconds['encoder']:.0f} s; "
            f"clustering about {seconds['fits']:.0f} s, all else {seconds['other']:.0f} s"
        )
    total = sum(sum(one["about_seconds"].values()) for one in found)
    print(f"In all about {max(1, round(total / 60))} min. Nothing was computed; without --dry-run it is.")


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@contextlib.contextmanager
def _needs_bench() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f'{error.name} is not installed; get it with: pip install "maskpool[bench]"') from None


def _print_wide(content: Group) -> None:
    screen = Console()
    # A pipe or a log has no width; rich would fold the table to 80 columns there.
    Console(width=screen.width if screen.is_terminal else 110).print(content, highlight=False)


def _note_on_pooling(model: str, poolings: Sequence[str]) -> list[str]:
    """Say which poolings are not the one that a model is saved with."""
    from maskpool.encoder import bundled_folder_of
    from maskpool.encoder.saved_pooling import find_saved_pooling

    try:
        saved = find_saved_pooling(bundled_folder_of(model))
    except FileNotFoundError:  # a repository of the hub that cannot be reached
        return []
    if saved is None or saved.unusable:
        return []
    others = [mode for mode in poolings if not saved.is_mode(mode)]
    return [f"{model} is saved with {saved.name} pooling; {', '.join(others)} pools otherwise"] if others else []


class _Screen:
    """Progress on standard error, or none."""

    def __init__(self, silent: bool) -> None:
        self.silent = silent
        self.console = Console(stderr=True, quiet=silent)

    def say(self, words: str) -> None:
        """Print a line of progress."""
        self.console.print(words, style="dim")

    @contextlib.contextmanager
    def status(self, words: str) -> Iterator[Callable[[str], None]]:
        """Show one line that changes, on a terminal only."""
        if self.silent or not self.console.is_terminal:
            yield lambda _: None
            return
        with self.console.status(Text(words)) as status:  # not markup: names may hold brackets
            yield lambda words: status.update(Text(words))

    @contextlib.contextmanager
    def task(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a progress bar."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(description, total=total)
            yield lambda steps: progress.advance(task, steps)


def main() -> None:
    """Run the command and exit: every error becomes one sentence on standard error and exit code 2."""
    _Debug.wanted = False
    sys.exit(_run())


def _run() -> int:
    try:
        found = app(standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        return found if isinstance(found, int) else SUCCESS
    except KeyboardInterrupt:
        return INTERRUPTED
    # Not only Exception: a library may call sys.exit, and tokenizers raise panics that are no Exceptions.
    except BaseException as error:
        if _is_broken_pipe(error):
            _discard_output()
            return FAILURE
        if hasattr(error, "format_message"):  # an error of the command line itself
            rich_format_error(error)  # type: ignore[arg-type]  # typer's own class is private
        elif _Debug.wanted:
            traceback.print_exc()
        else:
            print(f"maskpool: {_sentence(error)}", file=sys.stderr)
        return FAILURE


def _sentence(error: BaseException) -> str:
    if isinstance(error, typer.Abort) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, MaskpoolError):
        return printable(str(error))
    words = printable(next(iter(str(error).strip().splitlines()), ""))
    return f"unexpected {type(error).__name__}{': ' + words if words else ''}; maskpool --debug shows the traceback"


def _is_broken_pipe(error: BaseException) -> bool:
    """Whether the reader of the output is gone, which typer turns into SystemExit."""
    cause = error.__context__ if isinstance(error, SystemExit) else error
    return isinstance(cause, OSError) and cause.errno == errno.EPIPE


def _discard_output() -> None:
    """Keep Python from writing to a broken pipe again when it exits, which would change the exit code."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())  # type: ignore[union-attr]  # suppressed
