"""The command line: argument parsing and printing only."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

from maskpool import __version__
from maskpool.errors import UserError

try:
    import typer
    from rich.console import Console
except ModuleNotFoundError as missing:
    sys.exit(f'maskpool: {missing.name} is not installed; the command needs: pip install "maskpool[bench]"')

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"maskpool {__version__}")
        raise typer.Exit


@app.callback()
def maskpool(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Pool real tokens only, and measure what pooling over pads does."""


@app.command()
def bench(
    model: Annotated[
        str, typer.Option(help="A model's name on the hub, or its folder.", rich_help_panel="What is measured")
    ] = "all-MiniLM-L6-v2",
    data: Annotated[
        Path | None,
        typer.Option(
            help="Labelled texts: a csv, tsv, jsonl or parquet file. Default: public docstrings, a demonstration.",
            show_default=False,
            rich_help_panel="What is measured",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="One of MTEB's clustering tasks by name.", show_default=False, rich_help_panel="What is measured"
        ),
    ] = None,
    hub: Annotated[
        str | None,
        typer.Option(
            help="A labelled dataset by its name on the hub.", show_default=False, rich_help_panel="What is measured"
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Of --hub.", rich_help_panel="What is measured")] = "test",
    newsgroups: Annotated[
        bool, typer.Option("--newsgroups", help="scikit-learn's 20 newsgroups.", rich_help_panel="What is measured")
    ] = False,
    text_column: Annotated[str, typer.Option(rich_help_panel="What is measured")] = "text",
    label_column: Annotated[str, typer.Option(rich_help_panel="What is measured")] = "label",
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, help="Take a sample of so many texts, stratified by label.", rich_help_panel="What is measured"
        ),
    ] = None,
    pooling: Annotated[
        list[str], typer.Option(help="Modes; repeat the option, or separate them by commas.", rich_help_panel="How")
    ] = ["mean,max,attention"],  # noqa: B006  # typer shows it and copies it
    pad_to: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The fixed padded length. Default: 128, or the longest text if that is longer.",
            show_default=False,
            rich_help_panel="How",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts in a batch of the plans.", rich_help_panel="How")] = 32,
    seeds: Annotated[int, typer.Option(min=2, help="k-means seeds.", rich_help_panel="How")] = 5,
    device: Annotated[str, typer.Option(help="Where the model runs.", rich_help_panel="How")] = "cpu",
    out: Annotated[
        Path,
        typer.Option(help="Folder for results.json, results.csv, report.md and the figures.", rich_help_panel="How"),
    ] = Path("maskpool-bench"),
) -> None:
    """Measure what pooling over pads does to embeddings and their clusters.

    One forward pass of a model over labelled texts gives the vectors of every padding plan, with pads
    excluded and included; k-means clusters them, and the table says how far the clusters moved from
    the labels, with intervals. Without options it takes about two minutes on two cores.
    """
    errors = Console(stderr=True)
    errors.print("loading …", style="dim")
    try:
        from maskpool.bench import corpora, report
        from maskpool.bench.run import Settings, run_study
        from maskpool.encoder import Encoder
    except ModuleNotFoundError as error:
        raise UserError(f'{error.name} is not installed; get it with: pip install "maskpool[bench]"') from None
    modes = tuple(dict.fromkeys(mode.strip() for entry in pooling for mode in entry.split(",")))
    settings = Settings(modes, pad_to, batch_size, seeds).check()
    given = {"--data": data, "--task": task, "--hub": hub, "--newsgroups": newsgroups or None}
    several = [option for option, value in given.items() if value is not None]
    if len(several) > 1:
        raise UserError(f"only one corpus can be measured at a time, got {', '.join(several)}")
    report.check_folder(out)
    if data is not None:
        corpus = corpora.read_file(data, text_column, label_column)
    elif task is not None:
        corpus = corpora.mteb_task(task)
    elif hub is not None:
        corpus = corpora.hub_dataset(hub, split, text_column, label_column)
    else:
        corpus = corpora.newsgroups() if newsgroups else corpora.docstrings()
    if limit is not None:
        corpus = corpus.sample(limit, settings.seed)
    results = run_study(corpus, Encoder.load(model, device), settings, out, _Bars(errors))
    report.write(results, out)
    screen = Console()
    # A pipe or a log has no width; rich would fold the table to 80 columns there.
    Console(width=screen.width if screen.is_terminal else 110).print(report.show(results), highlight=False)
    if results["corpus"]["truncated"]:
        print(f"{results['corpus']['truncated']} texts were cut off at {results['model']['max_length']} tokens.")
    print(f"Written to {out}{'/' if not str(out).endswith('/') else ''}: {', '.join(report.FILES)}")


class _Bars:
    """Progress bars on standard error."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextlib.contextmanager
    def task(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show one bar while the work goes on."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(description, total=total)
            yield lambda steps: progress.advance(task, steps)


def main() -> None:
    """Run the command; what the user can mend becomes one sentence and exit code 2."""
    try:
        app()
    except UserError as error:
        print(f"maskpool: {error}", file=sys.stderr)
        sys.exit(2)
