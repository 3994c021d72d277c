"""Define ``maskpool embed``, which embeds files of texts into Parquet parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskpool.cli.endings import FAILURE, CommandError, needs_extra, not_empty, spell, stoppable, was_given
from maskpool.cli.screen import Screen
from maskpool.errors import rename_arguments

if TYPE_CHECKING:
    from maskpool.embed import EmbedReport
    from maskpool.embed.run import EmbedEstimate

FAILED_TEXTS = 1
# The command's name for each argument of the functions that it calls.
OPTIONS = {
    "inputs": "INPUT",
    "out": "--out",
    "model": "--model",
    "text_column": "--text-column",
    "id_column": "--id-column",
    "pooling": "--pooling",
    "prompt": "--prompt",
    "normalize": "--normalize",
    "dtype": "--dtype",
    "batch_tokens": "--batch-tokens",
    "device": "--device",
    "drop_missing": "--drop-missing",
    "skip_bad": "--skip-bad",
    "address": "--ray-address",
    "num_actors": "--num-actors",
    "gpus_per_actor": "--gpus-per-actor",
}
_TEXTS, _VECTORS, _ENGINE, _OUTPUT = "Texts", "Vectors", "Engine", "Output"
_ENGINES = ("local", "ray")
_OPTIONS_OF_RAY = ("ray_address", "num_actors", "gpus_per_actor")
_NAMED = 5  # lines and rows that are named one by one


def embed(
    context: typer.Context,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT",
            help="Files of texts: csv, tsv, jsonl or parquet; a folder of them; or a pattern in quotes.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=not_empty,
            metavar="DIR",
            help="Folder for the parts; an interrupted run resumes there.",
            show_default=False,
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    verify: Annotated[
        Path | None,
        typer.Option(
            parser=not_empty,
            metavar="DIR",
            help="Count the rows of a finished run and check the hash of every part, and embed nothing.",
            show_default=False,
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check the input and report how long the run takes.", rich_help_panel=_OUTPUT),
    ] = False,
    text_column: Annotated[str, typer.Option(help="The column of texts.", rich_help_panel=_TEXTS)] = "text",
    id_column: Annotated[
        str | None,
        typer.Option(help="The column of ids, which the parts repeat.", show_default=False, rich_help_panel=_TEXTS),
    ] = None,
    drop_missing: Annotated[
        bool,
        typer.Option(
            "--drop-missing",
            help="Leave out rows without a text, and count them. Default: they have no vector.",
            rich_help_panel=_TEXTS,
        ),
    ] = False,
    skip_bad: Annotated[
        bool,
        typer.Option(
            "--skip-bad",
            help="Leave out broken lines, and count them. Default: they are refused.",
            rich_help_panel=_TEXTS,
        ),
    ] = False,
    model: Annotated[
        str, typer.Option(help="A model's name on the hub, or its folder.", rich_help_panel=_VECTORS)
    ] = "all-MiniLM-L6-v2",
    pooling: Annotated[
        str | None,
        typer.Option(
            help="A mode, such as max or 'topk_mean(k=3)'. Default: as the model is saved, else the mean.",
            show_default=False,
            rich_help_panel=_VECTORS,
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="Text that is put in front of each text. Default: the default prompt of the saved model.",
            show_default=False,
            rich_help_panel=_VECTORS,
        ),
    ] = None,
    normalize: Annotated[
        bool | None,
        typer.Option(
            "--normalize/--no-normalize",
            help="Whether vectors have length 1. Default: as the model is saved.",
            show_default=False,
            rich_help_panel=_VECTORS,
        ),
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="The dtype of the stored vectors, float32 or float16.", rich_help_panel=_VECTORS)
    ] = "float32",
    batch_tokens: Annotated[
        int | None,
        typer.Option(
            help="The largest number of tokens of a batch, pads included. Default: 2,048 on a CPU, 16,384 elsewhere.",
            show_default=False,
            rich_help_panel=_VECTORS,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="The device that the model runs on.", rich_help_panel=_VECTORS)] = "cpu",
    engine: Annotated[
        str,
        typer.Option(
            help="Where slices are embedded: local, in this process; ray, on a Ray cluster.", rich_help_panel=_ENGINE
        ),
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="The cluster: host:port, or auto for the one of this machine. Default: Ray is started here.",
            show_default=False,
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    num_actors: Annotated[
        int, typer.Option(help="The number of Ray actors, each with a model.", rich_help_panel=_ENGINE)
    ] = 1,
    gpus_per_actor: Annotated[
        float, typer.Option(help="The share of a GPU that an actor gets.", rich_help_panel=_ENGINE)
    ] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.", rich_help_panel=_OUTPUT)] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON and nothing else.", rich_help_panel=_OUTPUT)
    ] = False,
) -> None:
    """Embed files of texts into Parquet parts, in the order of the input and in bounded memory.

    Each slice of the input becomes one part. The same command resumes an interrupted run and ends with the same
    bytes. Exit code 0: every text has a vector; 1: some texts could not be embedded, and are listed; 2: an error.
    """
    screen = Screen(silent=quiet or as_json)
    if verify is not None:
        others = {name for name in context.params if was_given(context, name)} - {"verify", "quiet", "as_json"}
        if others:
            raise CommandError(f"--verify checks what a run has written: leave out {_name(min(others))}")
        _verify(verify, screen, as_json)
        return
    if not inputs or out is None:
        raise CommandError("INPUT and --out must be given: what is embedded, and the folder for the vectors")
    if engine not in _ENGINES:
        raise CommandError(f"--engine must be {' or '.join(_ENGINES)}, got {engine!r}")
    without_effect = [name for name in _OPTIONS_OF_RAY if engine != "ray" and was_given(context, name)]
    if without_effect:
        raise CommandError(f"{_name(without_effect[0])} has an effect on Ray only: add --engine ray, or leave it out")
    if dry_run and engine == "ray":
        raise CommandError("--dry-run measures this machine: leave out --engine ray")
    with stoppable(out, _finished_parts), rename_arguments(OPTIONS):
        with needs_extra("embed"):
            screen.say("loading …")
            from maskpool.embed import run
            from maskpool.embed.settings import Settings
        settings = Settings(
            model=model,
            text_column=text_column,
            id_column=id_column,
            pooling=pooling,
            prompt=prompt,
            normalize=normalize,
            dtype=dtype,  # type: ignore[arg-type]  # Settings checks the word
            batch_tokens=batch_tokens,
            device=device,
            drop_missing=drop_missing,
            skip_bad=skip_bad,
        )
        if dry_run:
            _print_estimate(run.dry_run(inputs, out, settings), screen, as_json)
            return
        on_ray = None
        if engine == "ray":
            from maskpool.integrations.ray import RayEngine

            on_ray = RayEngine(ray_address, num_actors, gpus_per_actor)
            screen.say(f"connecting to Ray at {ray_address} …" if ray_address else "starting Ray …")
        report = run.run(inputs, out, settings, engine=on_ray, progress=None if screen.silent else screen)
        if as_json:
            print(json.dumps(report.as_dict()))
        if not screen.silent:
            print("\n".join(_lines(report)))
    if report.failed:
        raise typer.Exit(FAILED_TEXTS)


def _name(parameter: str) -> str:
    return OPTIONS.get(parameter) or spell(parameter)


def _verify(folder: Path, screen: Screen, as_json: bool) -> None:
    with stoppable(), needs_extra("embed"):
        from maskpool.embed import verify_embeddings

        report = verify_embeddings(folder)
    if as_json:
        print(json.dumps(report.as_dict()))
        if report.problems:
            raise typer.Exit(FAILURE)
    elif report.problems:
        more = f" (and {len(report.problems) - _NAMED} more)" if len(report.problems) > _NAMED else ""
        raise CommandError(f"{folder}: {'; '.join(report.problems[:_NAMED])}{more}")
    elif not screen.silent:
        print(
            f"{report.parts:,} parts, {report.rows:,} rows, {report.vectors:,} vectors: every row is there once, and "
            "every part has the bytes that were written"
        )


def _print_estimate(estimate: EmbedEstimate, screen: Screen, as_json: bool) -> None:
    if as_json:
        print(json.dumps(estimate.as_dict()))
    if screen.silent:
        return
    seconds = estimate.about_seconds
    time = f"{seconds / 60:,.0f} min" if seconds > 90 else f"{seconds:.0f} s"
    print(
        f"{estimate.rows:,} rows in {estimate.files:,} files, {estimate.tokens_per_text:.0f} tokens a text; "
        f"{estimate.parts:,} parts, {estimate.finished:,} finished; vectors of about "
        f"{estimate.about_bytes / 1e6:,.1f} MB"
    )
    print(f"About {time} from here on. Nothing was written; leave out --dry-run to run it.")


def _finished_parts(out: Path) -> str:
    return f"{len(list(out.glob('part-*.parquet')))} finished parts"


def _lines(report: EmbedReport) -> list[str]:
    """Lay out the report as text."""
    texts = "1 text was" if report.truncated == 1 else f"{report.truncated:,} texts were"
    before = report.parts - report.new_parts
    counts = (
        (report.missing, f"{report.missing:,} rows have no text and no vector."),
        (report.dropped, f"{report.dropped:,} rows without a text were left out."),
        (
            report.repeated_ids,
            f"{report.repeated_ids:,} rows have the id of an earlier row"
            f"{_first([f'row {row}' for row in report.repeated_in])}.",
        ),
        (report.truncated, f"{texts} cut off at the largest number of tokens."),
        (report.bad_lines, f"{report.bad_lines:,} broken lines were left out{_first(report.bad)}."),
        (
            len(report.failed),
            f"{len(report.failed):,} texts could not be embedded and have no vector"
            f"{_first([f'row {row}: {reason}' for row, reason in report.failed])}.",
        ),
    )
    resumed = f" ({before:,} were there before)" if before else ""
    return [
        f"{report.vectors:,} vectors of {report.rows:,} rows; {report.tokens:,} tokens, {report.pads:.1%} pads",
        *(sentence for count, sentence in counts if count),
        *(f"note: {note}" for note in report.notes),
        f"Written to {report.out.rstrip('/')}/: {report.parts:,} {'part' if report.parts == 1 else 'parts'}{resumed}",
    ]


def _first(lines: list[str] | tuple[str, ...]) -> str:
    return (": " + "; ".join(lines[:_NAMED]) + ("; …" if len(lines) > _NAMED else "")) if lines else ""
