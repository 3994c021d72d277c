"""The folder of a study."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from maskpool.bench.design.corpora import Corpus
from maskpool.bench.design.study import CorpusSource, Study
from maskpool.bench.report.results import results_of
from maskpool.bench.store.cells import content_hash
from maskpool.bench.store.checks import CELLS, STUDY, check_writable
from maskpool.bench.store.folder import StudyFolder
from maskpool.errors import MaskpoolError
from maskpool.plans import Plan

MINE = Corpus("mine", ["a b", "c d"], ["x", "y"])
THEIRS = Corpus("theirs", ["e f", "g h"], ["x", "y"])
REQUESTED = Study(models=("one",), corpora=(CorpusSource(data="mine.csv"),), seeds=5)
VERSIONS = {"torch": "2.13.0", "numpy": "2.4.0"}


def content(folder: Path) -> dict[str, bytes | None]:
    """Read everything below a folder; None marks a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def claim(folder: StudyFolder, study: Study, corpora: list[Corpus], versions: dict[str, str]) -> None:
    """Claim a folder as a run does before its first cell."""
    check_writable(folder.path)
    folder.refuse_others(study, corpora, versions)
    with folder.claim(study, corpora, versions):
        pass


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    """Make a folder that a study has claimed, with a cell in it."""
    claimed = StudyFolder(tmp_path / "out")
    claim(claimed, REQUESTED, [MINE], VERSIONS)
    claimed.cells.add({"kind": "proof", "part": "a"}, 1, 0)
    return claimed


def refusal(act: Callable[[], object]) -> str:
    """Return the message of a refusal, which must be one line."""
    with pytest.raises(MaskpoolError) as refused:
        act()
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("name", ["out", "new/folder/out"])
def test_a_study_claims_a_new_folder(tmp_path: Path, name: str) -> None:
    """A claim creates the folder with only the study, the hashes of the texts and the versions in it."""
    folder = StudyFolder(tmp_path / name)
    claim(folder, REQUESTED, [MINE, THEIRS], VERSIONS)
    assert list(content(folder.path)) == [STUDY]
    expected = {
        "study": REQUESTED.as_json(),
        "corpora": {"mine": MINE.sha256, "theirs": THEIRS.sha256},
        "versions": VERSIONS,
    }
    assert folder.read() == expected
    stored = json.loads((folder.path / STUDY).read_text(encoding="utf-8"))
    assert stored == expected | {"sha256": content_hash(expected)}


def test_a_study_may_claim_a_folder_of_other_files(tmp_path: Path) -> None:
    """A study may claim a folder with other files, which are kept."""
    (tmp_path / "notes.txt").write_text("mine")
    claim(StudyFolder(tmp_path), REQUESTED, [MINE], VERSIONS)
    assert content(tmp_path)["notes.txt"] == b"mine"


def test_the_same_study_claims_again(folder: StudyFolder) -> None:
    """The same study may claim its folder again, with cells in it, and nothing changes."""
    before = content(folder.path)
    claim(StudyFolder(folder.path), REQUESTED, [MINE], VERSIONS)
    assert content(folder.path) == before


@pytest.mark.parametrize(("setting", "value"), [("margin", 0.2), ("quote", True)])
def test_another_report_is_of_the_same_study(folder: StudyFolder, setting: str, value: Any) -> None:
    """A study with another margin or with quotes may claim its folder, because no measurement depends on them."""
    changes: dict[str, Any] = {setting: value}
    claim(StudyFolder(folder.path), replace(REQUESTED, **changes), [MINE], VERSIONS)
    assert folder.read()["study"] == REQUESTED.as_json() | changes


def test_an_edited_description_is_refused(folder: StudyFolder) -> None:
    """A description that was changed after it was written is refused by every reader, and the file is unchanged."""
    path = folder.path / STUDY
    path.write_text(path.read_text().replace('"seeds": 5', '"seeds": 4'))
    before = path.read_bytes()
    for act in (folder.read, lambda: results_of(folder), lambda: claim(folder, REQUESTED, [MINE], VERSIONS)):
        assert "it was changed after it was written" in refusal(act)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "larger",
    [
        {"seeds": 6},
        {"replicates": 60},
        {"models": ("one", "two")},
        {"poolings": ("max", "mean", "cls", "attention")},
        {"clusterers": ("hdbscan", "kmeans")},
        {"layers": (0, -1)},
        {"treatments": (*REQUESTED.treatments, "another's pads only")},
        {"leaks": ("mean over pads",)},
        {"corpora": (*REQUESTED.corpora, CorpusSource(docstrings=True))},
        {"plans": (Plan("random"),)},
        {"pad_to": 64},
    ],
    ids=str,
)
def test_a_larger_study_may_claim(folder: StudyFolder, larger: dict[str, Any]) -> None:
    """A study that measures more may claim the folder, which keeps its cells; the smaller one is refused afterwards."""
    study, key = replace(REQUESTED, **larger), {"kind": "proof", "part": "a"}
    claim(StudyFolder(folder.path), study, [MINE, THEIRS], VERSIONS)
    assert folder.read()["study"] == study.as_json()
    assert StudyFolder(folder.path).cells[key] == 1
    if not {*larger} & {"plans", "pad_to"}:  # plans are compared for each model and corpus
        sentence = refusal(lambda: claim(StudyFolder(folder.path), REQUESTED, [MINE], VERSIONS))
        assert "which its report would lose" in sentence or "measured with" in sentence


@pytest.mark.parametrize(
    ("smaller", "named"),
    [
        ({"seeds": 4}, "5 seeds (now 4)"),
        ({"replicates": 49}, "50 replicates (now 49)"),
        ({"models": ("two",)}, 'models "one"'),
        ({"poolings": ("mean", "attention")}, 'poolings "max"'),
        ({"corpora": (CorpusSource(data="b.csv"),)}, '"mine.csv"'),
    ],
    ids=str,
)
def test_a_smaller_study_is_refused(folder: StudyFolder, smaller: dict[str, Any], named: str) -> None:
    """A study that lacks something of the folder is refused with what its report would lose."""
    before = content(folder.path)
    sentence = refusal(lambda: claim(StudyFolder(folder.path), replace(REQUESTED, **smaller), [MINE], VERSIONS))
    assert "which its report would lose" in sentence
    assert named in sentence
    assert content(folder.path) == before


OTHERS: dict[str, tuple[Study, list[str]]] = {
    "dtype": (replace(REQUESTED, dtype="float16"), ['dtype "float32" (now "float16")']),
    "two settings": (
        replace(REQUESTED, dtype="float16", seed=1),
        ['dtype "float32" (now "float16")', "seed 0 (now 1)"],
    ),
}


@pytest.mark.parametrize(("other", "named"), OTHERS.values(), ids=OTHERS)
def test_another_study_is_refused(folder: StudyFolder, other: Study, named: list[str]) -> None:
    """Another study is refused with the stored and the new value of what differs, and the folder is unchanged."""
    before = content(folder.path)
    sentence = refusal(lambda: claim(StudyFolder(folder.path), other, [MINE], VERSIONS))
    start = f"out must be a folder without another study's cells; those in {folder.path} were measured with "
    assert sentence.startswith(start)
    assert sentence.endswith(": choose another folder, or delete this one")
    for name in named:
        assert name in sentence
    same = {"models", "seeds", "replicates", "dtype", "layers"} - {name.split()[0] for name in named}
    assert not [name for name in same if f"{name} " in sentence.removeprefix(start)]
    assert content(folder.path) == before


@pytest.mark.parametrize(
    ("corpora", "named"),
    [
        ([replace(MINE, texts=["a b", "c e"])], ["mine"]),
        ([replace(MINE, labels=["x", "z"])], ["mine"]),
        ([THEIRS], ["mine"]),
    ],
)
def test_other_texts_are_refused(folder: StudyFolder, corpora: list[Corpus], named: list[str]) -> None:
    """Other texts or labels under the same study are refused with the name of the corpus."""
    sentence = refusal(lambda: claim(StudyFolder(folder.path), REQUESTED, corpora, VERSIONS))
    assert sentence.startswith("out must be a folder without another study's cells")
    assert f"measured with other texts or labels of {', '.join(named)}: choose another folder" in sentence


def test_other_settings_of_a_corpus_are_named(folder: StudyFolder) -> None:
    """If other texts come from another setting of the corpus, the refusal names it with both values."""
    study = replace(REQUESTED, corpora=(CorpusSource(data="mine.csv", limit=48),))
    sentence = refusal(lambda: claim(folder, study, [replace(MINE, texts=["a b", "c e"])], VERSIONS))
    assert "measured with other texts or labels of mine (`limit` null, now 48: set them as before): choose" in sentence


@pytest.mark.parametrize(
    ("versions", "named"),
    [
        (VERSIONS | {"torch": "2.14.0"}, 'torch "2.13.0" (now "2.14.0")'),
        (VERSIONS | {"scipy": "1.17.0"}, 'scipy null (now "1.17.0")'),
        ({"torch": "2.13.0"}, 'numpy "2.4.0" (now null)'),
    ],
)
def test_other_versions_are_refused(folder: StudyFolder, versions: dict[str, str], named: str) -> None:
    """Another version of a package that the numbers depend on is refused with both versions."""
    assert named in refusal(lambda: claim(StudyFolder(folder.path), REQUESTED, [MINE], versions))


def test_cells_without_a_study_are_refused(tmp_path: Path) -> None:
    """Cells without the description of their study are refused and unchanged."""
    (tmp_path / CELLS).write_text("mine\n")
    sentence = refusal(lambda: claim(StudyFolder(tmp_path), REQUESTED, [MINE], VERSIONS))
    assert sentence.startswith(f"out must be the folder of a study, with a {STUDY}, got {tmp_path}: ")
    assert content(tmp_path) == {CELLS: b"mine\n"}


@pytest.mark.parametrize("name", [STUDY, CELLS])
def test_a_folder_in_a_files_place_is_refused(tmp_path: Path, name: str) -> None:
    """A folder in the place of the study's or the cells' file is refused before anything is written."""
    (tmp_path / name).mkdir()
    sentence = refusal(lambda: claim(StudyFolder(tmp_path), REQUESTED, [MINE], VERSIONS))
    assert sentence == f"out must be a writable folder, got {tmp_path}: {name} in it is a folder"
    assert content(tmp_path) == {name: None}


@pytest.mark.parametrize("below", ["file", "file/below"])
def test_a_file_in_the_folders_place_is_refused(tmp_path: Path, below: str) -> None:
    """An output path that is a file, or is below a file, is refused with the path, and the file is kept."""
    (tmp_path / "file").write_text("mine")
    sentence = refusal(lambda: claim(StudyFolder(tmp_path / below), REQUESTED, [MINE], VERSIONS))
    assert re.fullmatch(re.escape(f"out must be a writable folder, got {tmp_path / below}: ") + ".+", sentence)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is not writable is refused with the reason."""

    def refuse(**options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("maskpool.bench.store.checks.tempfile.TemporaryFile", refuse)
    sentence = refusal(lambda: check_writable(tmp_path))
    assert sentence == f"out must be a writable folder, got {tmp_path}: Permission denied"


def writes(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


def raises(error: BaseException) -> Callable[[Path], object]:
    """Make a function that writes half of a file and then fails."""

    def make(path: Path) -> None:
        path.write_text("half")
        raise error

    return make


@pytest.mark.parametrize("name", ["out", "new/folder/out"])
def test_a_check_creates_nothing(tmp_path: Path, name: str) -> None:
    """A missing folder is not created before a study claims it."""
    check_writable(tmp_path / name)
    assert content(tmp_path) == {}


def test_one_study_at_a_time_runs_in_a_folder(folder: StudyFolder) -> None:
    """While a study runs, a second run in its folder is refused, and the folder is unchanged."""
    before = content(folder.path)
    with folder.claim(REQUESTED, [MINE], VERSIONS):
        sentence = refusal(lambda: claim(StudyFolder(folder.path), REQUESTED, [MINE], VERSIONS))
    assert sentence.startswith(f"out must be a folder in which no other study runs, got {folder.path}: wait")
    assert content(folder.path) == before
    claim(StudyFolder(folder.path), REQUESTED, [MINE], VERSIONS)


def test_cells_of_another_process_are_seen(folder: StudyFolder) -> None:
    """Cells that another process finished before a study claims its folder are not computed again."""
    late = StudyFolder(folder.path)
    late.refuse_others(REQUESTED, [MINE], VERSIONS)
    folder.cells.add({"kind": "proof", "part": "b"}, 1, 0)
    with late.claim(REQUESTED, [MINE], VERSIONS):
        assert {"kind": "proof", "part": "b"} in late.cells


def test_a_file_system_without_locks_is_accepted(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the file system does not support locks, a study can still claim its folder."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    claim(folder, REQUESTED, [MINE], VERSIONS)
    assert folder.read()["study"] == REQUESTED.as_json()


def test_files_are_written_and_replaced(folder: StudyFolder) -> None:
    """Files are written under their names, older files of the same name are replaced, and no other file is left."""
    before = content(folder.path)
    folder.write({"one.md": writes("1"), "two.csv": writes("2")})
    folder.write({"two.csv": writes("3")})
    assert content(folder.path) == before | {"one.md": b"1", "two.csv": b"3"}


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), MaskpoolError),
        (PermissionError(errno.EACCES, "Permission denied"), MaskpoolError),
        (OSError("broken"), MaskpoolError),
        (MaskpoolError("no"), MaskpoolError),
        (ZeroDivisionError(), ZeroDivisionError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (SystemExit(1), SystemExit),
    ],
    ids=repr,
)
def test_files_are_written_all_or_none(
    folder: StudyFolder, place: int, error: BaseException, raised: type[BaseException]
) -> None:
    """If writing any file fails or is interrupted, every older file is kept and no other file is left."""
    names = ["one.md", "two.csv", "three.png"]
    folder.write({name: writes(f"older {name}") for name in names})
    before = content(folder.path)
    makers = {name: writes("newer") for name in names} | {names[place]: raises(error)}
    with pytest.raises(raised) as stopped:
        folder.write({name: makers[name] for name in names})
    assert content(folder.path) == before
    if isinstance(error, OSError):
        start = f"out must be a writable folder, got {folder.path}: "
        assert str(stopped.value) == start + (error.strerror or str(error))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_folder_in_one_files_place_leaves_all(folder: StudyFolder, place: int) -> None:
    """If a folder is in the place of one file, no file is written or replaced."""
    names = ["one.md", "two.csv", "three.png"]
    folder.write({name: writes("older") for name in names if name != names[place]})
    (folder.path / names[place]).mkdir()
    before = content(folder.path)
    sentence = refusal(lambda: folder.write({name: writes("newer") for name in names}))
    assert sentence.endswith(f"got {folder.path}: {names[place]} in it is a folder")
    assert content(folder.path) == before


RUBBISH: dict[str, Any] = {
    "a list": [],
    "null": None,
    "a number": 7,
    "a string": "study",
    "nothing": {},
    "no study": {"corpora": {}, "versions": {}},
    "a study that is null": {"study": None, "corpora": {}, "versions": {}},
    "a study that is a list": {"study": [], "corpora": {}, "versions": {}},
    "a study that is an empty string": {"study": "", "corpora": {}, "versions": {}},
    "a study that is a number": {"study": 7, "corpora": {}, "versions": {}},
    "a study that is none": {"study": {"seeds": "x"}, "corpora": {}, "versions": {}},
    "no corpora": {"study": {}, "versions": {}},
    "corpora that are a number": {"study": {}, "corpora": 7, "versions": {}},
    "no versions": {"study": {}, "corpora": {}},
}


@pytest.mark.parametrize("reader", ["read", "claim", "results"])
@pytest.mark.parametrize(
    "rubbish",
    [b"", b"{", b"\xff\xfe", b"\0" * 9, *(json.dumps(value).encode() for value in RUBBISH.values())],
    ids=["empty", "torn", "no text", "zeros", *RUBBISH],
)
def test_a_file_that_is_not_a_study_is_refused(tmp_path: Path, rubbish: bytes, reader: str) -> None:
    """Every reader refuses a file that does not describe a study in one sentence, and the file is unchanged."""
    (tmp_path / STUDY).write_bytes(rubbish)
    folder = StudyFolder(tmp_path)
    readers: dict[str, Callable[[], object]] = {
        "read": folder.read,
        "claim": lambda: claim(folder, REQUESTED, [MINE], VERSIONS),
        "results": lambda: results_of(folder),
    }
    refusal(readers[reader])
    assert content(tmp_path) == {STUDY: rubbish}


@pytest.mark.parametrize("name", ["none", "file", "."])
def test_a_folder_without_a_study_is_refused(tmp_path: Path, name: str) -> None:
    """A missing folder, a file, or a folder without a study is refused with its path."""
    (tmp_path / "file").write_text("mine")
    sentence = refusal(StudyFolder(tmp_path / name).read)
    start = f"out must be the folder of a study, with a {STUDY}, got {tmp_path / name}: "
    assert re.fullmatch(re.escape(start) + ".+", sentence)


def test_results_of_a_study_that_is_not_begun_are_refused(folder: StudyFolder) -> None:
    """A study without measurements has no results, and the refusal says how to resume."""
    sentence = refusal(lambda: results_of(folder))
    assert sentence == (
        f"the study in {folder.path} is not finished: 0 of 1 parts (a model on a corpus) have begun; run the "
        "study again, which resumes from there"
    )
