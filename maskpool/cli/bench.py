"""Define ``maskpool bench``, which measures what pooling over pads does to embeddings and their clusters."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskpool.cli.compare import compare_studies
from maskpool.cli.endings import CommandError, needs_extra, not_empty, spell, stoppable, was_given
from maskpool.cli.report import rebuild_report
from maskpool.cli.screen import Screen, notes_on_pooling, print_wide
from maskpool.errors import rename_arguments

if TYPE_CHECKING:
    from maskpool.bench.design.study import Study
    from maskpool.bench.store.folder import StudyFolder

# The command's name for each argument of the functions that it calls.
OPTIONS = {
    "file": "--study",
    "device": "--device",
    "out": "--out",
    "models": "--model",
    "data": "--data",
    "task": "--task",
    "hub": "--hub",
    "split": "--split",
    "newsgroups": "--newsgroups",
    "text_column": "--text-column",
    "label_column": "--label-column",
    "encoding": "--encoding",
    "separator": "--separator",
    "header": "--no-header",
    "quotes": "--quotes",
    "keep_na": "--keep-na",
    "drop_missing": "--drop-missing",
    "limit": "--limit",
    "poolings": "--pooling",
    "batch_size": "--batch-size",
    "pad_to": "--pad-to",
    "seeds": "--seeds",
    "quote": "--quote-texts",
    "margin": "--margin",
}
# Arguments that remain options next to a study file, and those that the file has under [[corpora]].
_NEXT_TO_A_STUDY = ("file", "device", "out")
_OF_A_CORPUS = (
    *("data", "task", "hub", "split", "newsgroups", "text_column", "label_column"),
    *("encoding", "separator", "header", "quotes", "keep_na", "drop_missing", "limit", "sha256"),
)
_SEPARATOR = re.compile(r",(?![^()]*\))")  # not the commas between the options of a mode
_MEASURED, _HOW, _OUTPUT = "What is measured", "How", "Output"

bench_app = typer.Typer(invoke_without_command=True, rich_markup_mode="markdown")
bench_app.command("report")(rebuild_report)
bench_app.command("compare")(compare_studies)


@bench_app.callback()
def bench(
    context: typer.Context,
    model: Annotated[
        str, typer.Option(help="A model's name on the hub, or its folder.", rich_help_panel=_MEASURED)
    ] = "all-MiniLM-L6-v2",
    data: Annotated[
        Path | None,
        typer.Option(
            parser=not_empty,
            metavar="PATH",
            help="Labelled texts: a csv, tsv, json, jsonl or parquet file, or one in a gz or zip file. "
            "Default: public docstrings, a demonstration.",
            show_default=False,
            rich_help_panel=_MEASURED,
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="The name of one of MTEB's clustering tasks.", show_default=False, rich_help_panel=_MEASURED),
    ] = None,
    hub: Annotated[
        str | None,
        typer.Option(help="The name of a labelled dataset on the hub.", show_default=False, rich_help_panel=_MEASURED),
    ] = None,
    split: Annotated[str, typer.Option(help="The split of --hub.", rich_help_panel=_MEASURED)] = "test",
    newsgroups: Annotated[
        bool, typer.Option("--newsgroups", help="scikit-learn's 20 newsgroups.", rich_help_panel=_MEASURED)
    ] = False,
    text_column: Annotated[
        str, typer.Option(help="The column of texts in --data or --hub.", rich_help_panel=_MEASURED)
    ] = "text",
    label_column: Annotated[
        str, typer.Option(help="The column of labels in --data or --hub.", rich_help_panel=_MEASURED)
    ] = "label",
    encoding: Annotated[
        str | None,
        typer.Option(
            help="The encoding of --data, such as cp1252. Default: recognised.",
            show_default=False,
            rich_help_panel=_MEASURED,
        ),
    ] = None,
    separator: Annotated[
        str | None,
        typer.Option(
            help="What separates the fields of --data. Default: recognised.",
            show_default=False,
            rich_help_panel=_MEASURED,
        ),
    ] = None,
    no_header: Annotated[
        bool,
        typer.Option(
            "--no-header",
            help="The first row of --data is not a header: columns are called 1, 2, …",
            rich_help_panel=_MEASURED,
        ),
    ] = False,
    quotes: Annotated[
        str | None,
        typer.Option(
            help="Whether the quotes of --data 'enclose' fields or are 'ordinary' characters. Default: recognised.",
            show_default=False,
            rich_help_panel=_MEASURED,
        ),
    ] = None,
    keep_na: Annotated[
        bool,
        typer.Option(
            "--keep-na",
            help="Words such as NA, and the label -1 next to 0, 1, …, are values. Default: missing values, as in "
            "pandas and scikit-learn.",
            rich_help_panel=_MEASURED,
        ),
    ] = False,
    drop_missing: Annotated[
        bool,
        typer.Option(
            "--drop-missing", help="Leave out rows without a text or label, and count them.", rich_help_panel=_MEASURED
        ),
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(help="Measure a sample of this many texts, stratified by label.", rich_help_panel=_MEASURED),
    ] = None,
    study: Annotated[
        Path | None,
        typer.Option(
            parser=not_empty,
            metavar="PATH",
            help="A study as a TOML file, instead of the options above and below.",
            show_default=False,
            rich_help_panel=_MEASURED,
        ),
    ] = None,
    pooling: Annotated[
        list[str],
        typer.Option(
            help="Modes, with options as in 'topk_mean(k=3)', or folders of trained heads; repeat the option, or "
            "separate them by commas.",
            rich_help_panel=_HOW,
        ),
    ] = ["mean,max,attention"],  # noqa: B006  # typer shows it and copies it
    pad_to: Annotated[
        int | None,
        typer.Option(
            help="The fixed padded length. Default: 128, or the longest text if that is longer.",
            show_default=False,
            rich_help_panel=_HOW,
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Texts per batch of the padding plans.", rich_help_panel=_HOW)] = 32,
    seeds: Annotated[int, typer.Option(help="Number of k-means seeds.", rich_help_panel=_HOW)] = 5,
    margin: Annotated[
        float, typer.Option(help="The largest difference of a score that counts as small.", rich_help_panel=_HOW)
    ] = 0.03,
    device: Annotated[str, typer.Option(help="The device that the model runs on.", rich_help_panel=_OUTPUT)] = "cpu",
    out: Annotated[
        Path,
        typer.Option(
            parser=not_empty,
            metavar="PATH",
            help="Folder for cells and reports; an interrupted study resumes there.",
            rich_help_panel=_OUTPUT,
        ),
    ] = Path("maskpool-bench"),
    quote_texts: Annotated[
        bool,
        typer.Option("--quote-texts", help="Quote texts of the data in the report.", rich_help_panel=_OUTPUT),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Report what would be computed and how long it takes.", rich_help_panel=_OUTPUT),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.", rich_help_panel=_OUTPUT)] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the results as JSON and nothing else.", rich_help_panel=_OUTPUT)
    ] = False,
) -> None:
    """Measure what pooling over pads does to embeddings and their clusters.

    One forward pass of a model over labelled texts gives the vectors of every padding plan, with pads
    excluded and included. k-means clusters them, and the table reports how far the clusters moved from
    the labels, with intervals. Without options it takes about two minutes on two cores. Finished cells are
    kept: an interrupted run resumes where it stopped.
    """
    given_options = [name for name in context.params if was_given(context, name)]
    if context.invoked_subcommand is not None:
        if given_options:
            options = ", ".join(map(spell, given_options))
            command = context.invoked_subcommand
            raise CommandError(f"{options} before {command} has no effect: options of {command} follow its name")
        return
    with stoppable(out), rename_arguments({**OPTIONS, "models[0]": "--model"} if study is None else _names_in(study)):
        if study is not None:
            also = [
                name for name in given_options if name not in ("study", "device", "out", "dry_run", "quiet", "as_json")
            ]
            if also:
                options = ", ".join(map(spell, also))
                raise CommandError(f"--study says what is measured: give {options} in {study.name} instead")
        several = [name for name in ("data", "task", "hub", "newsgroups") if name in given_options]
        if len(several) > 1:
            options = ", ".join(OPTIONS[name] for name in several)
            raise CommandError(f"only one corpus can be measured at a time, got {options}; a --study may have more")
        _check_paths(study, model, data, out)
        screen = Screen(silent=quiet or as_json)
        with needs_extra():
            screen.say("loading …")
            from maskpool.bench.design.study import CorpusSource, Study, read_study, refuse_unused
            from maskpool.bench.report import pages as report
            from maskpool.bench.report.results import about_corpus, about_unmeasured, results_of
            from maskpool.bench.run import run_study
            from maskpool.bench.store.folder import StudyFolder
        if study is not None:
            measured, base = read_study(study), study.parent
        else:
            given_arguments = [name for name, option in OPTIONS.items() if option in map(spell, given_options)]
            refuse_unused(given_arguments, several[0] if several else "docstrings")
            source = CorpusSource(
                data=str(data) if data is not None else None,
                task=task,
                hub=hub,
                newsgroups=newsgroups,
                docstrings=not several,
                split=split,
                text_column=text_column,
                label_column=label_column,
                encoding=encoding,
                separator=separator,
                header=not no_header,
                quotes=quotes,  # type: ignore[arg-type]  # CorpusSource checks the word
                keep_na=keep_na,
                drop_missing=drop_missing,
                limit=limit,
            )
            modes = tuple(dict.fromkeys(mode.strip() for entry in pooling for mode in _SEPARATOR.split(entry)))
            measured = Study(
                models=(model,),
                corpora=(source,),
                poolings=modes,
                batch_size=batch_size,
                pad_to=pad_to,
                seeds=seeds,
                quote=quote_texts,
                margin=margin,
            )
            base = Path()
        folder = StudyFolder(out)
        if dry_run:
            _print_estimate(measured, base, folder, device, screen, as_json)
            return
        run_study(measured, base, folder, device, screen)
        results = results_of(folder)
        written = report.write(results, folder)
        if as_json:
            print(json.dumps(results))
        if screen.silent:
            return
        print_wide(report.show(results))
        for part in results["parts"]:
            for sentence in (*about_corpus(part["corpus"]), *about_unmeasured(part)):
                print(sentence)
            if part["corpus"]["truncated"]:
                print(f"{part['corpus']['truncated']} texts were cut off at {part['model']['max_length']} tokens.")
        unmeasured = set.intersection(*(set(part["unmeasured"]) for part in results["parts"] or [{"unmeasured": ()}]))
        poolings = [mode for mode in measured.poolings if mode not in unmeasured]
        for note in (note for name in measured.models for note in notes_on_pooling(name, poolings)):
            print(f"note: {note}")
        print(f"Written to {str(out).rstrip('/')}/: {', '.join(written)}")


def _check_paths(study: Path | None, model: str, data: Path | None, out: Path) -> None:
    """Check paths before the imports that take seconds."""
    from maskpool.bench.design.study_file import paths_in, read_toml
    from maskpool.bench.paths import check_paths

    if study is None:
        check_paths([model], [] if data is None else [data], out)
    else:
        check_paths(*paths_in(read_toml(study), study.parent), out)


def _names_in(study: Path) -> Mapping[str, str]:
    """Return the name of each argument in a study file: its key there."""
    keys = {name: f"{study.name}: {name}" for name in (*OPTIONS, "corpora", "layers", "plans")}
    of_a_corpus = {name: f"{study.name}: {name} of [[corpora]]" for name in _OF_A_CORPUS}
    return keys | of_a_corpus | {name: OPTIONS[name] for name in _NEXT_TO_A_STUDY}


def _print_estimate(study: Study, base: Path, folder: StudyFolder, device: str, screen: Screen, as_json: bool) -> None:
    from maskpool.bench.estimate import estimate
    from maskpool.bench.part import versions
    from maskpool.bench.report.results import about_corpus
    from maskpool.bench.run import check_models, load_corpora, load_parts, refuse_other_parts

    check_models(study)
    corpora = load_corpora(study, base)
    folder.refuse_others(study, corpora, versions())
    estimates, about_corpora = [], []
    for part in load_parts(study, corpora, device):
        refuse_other_parts(part, folder)
        estimates.append(estimate(part, folder.cells))
        about_corpora.append(about_corpus(part.facts()["corpus"]))
    if as_json:
        print(json.dumps(estimates))
    if screen.silent:
        return
    for part_estimate, sentences in zip(estimates, about_corpora, strict=True):
        seconds = part_estimate["about_seconds"]
        passes = (
            "one pass for all right-padded plans"
            if part_estimate["one_pass_for_all_right_padded_plans"]
            else "one pass per padding plan"
        )
        print(
            f"{part_estimate['model']} on {part_estimate['corpus']}: {part_estimate['cells']} cells, "
            f"{part_estimate['finished']} finished; {part_estimate['texts_for_the_encoder']} texts for the encoder "
            f"({passes}), about {seconds['encoder']:.0f} s; "
            f"clustering about {seconds['fits']:.0f} s, the rest {seconds['other']:.0f} s"
        )
        print("\n".join(sentences))
    total = sum(sum(part_estimate["about_seconds"].values()) for part_estimate in estimates)
    print(f"In all about {max(1, round(total / 60))} min. Nothing was computed; leave out --dry-run to run it.")
