"""The plugin of pytest: what its fixture and marker report, and what it loads."""

from __future__ import annotations

import importlib
import sys
import tomllib
from pathlib import Path

import pytest

from maskpool import pytest_plugin
from tests.audit import planted
from tests.blocks import fenced_blocks

ROOT = Path(__file__).parents[1]
PIPELINES = f"""
import unittest

import pytest
from {planted.__name__} import FEW, mean, pooled_by


@pytest.fixture
def clean():
    return pooled_by(mean)


@pytest.fixture
def leaking():
    return pooled_by(lambda states, mask: states.mean(dim=1))


@pytest.fixture
def number():
    return 3


@pytest.fixture
def raising():
    def embed(texts):
        raise RuntimeError("out of memory")

    return embed

"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Return an empty test suite that loads no installed plugin."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    return pytester


def run(suite: pytest.Pytester, code: str) -> pytest.RunResult:
    suite.makepyfile(PIPELINES + code)
    return suite.runpytest_inprocess("-p", "no:cacheprovider", "--strict-markers", plugins=[pytest_plugin])


def test_clean_pipelines_pass(suite: pytest.Pytester) -> None:
    """A clean pipeline passes the fixture and the marker, and the marked test runs."""
    code = """
def test_fixture(assert_padding_invariant, clean):
    assert_padding_invariant(clean, FEW)


@pytest.mark.padding_invariant("clean", texts=FEW)
def test_marker(clean):
    assert False, "the test itself"
"""
    ran = run(suite, code)
    ran.assert_outcomes(passed=1, failed=1)
    ran.stdout.fnmatch_lines(["E *the test itself"])


def test_leaks_fail_with_the_report(suite: pytest.Pytester) -> None:
    """A leak fails with the report in the message: the fixture at the line of the test, the marker before the test."""
    code = """
def test_fixture(assert_padding_invariant, leaking):
    assert_padding_invariant(leaking, FEW)


@pytest.mark.padding_invariant("leaking", FEW)
@pytest.mark.padding_invariant("clean", FEW)
def test_marker(clean, leaking):
    print("the test itself")


@pytest.mark.padding_invariant("leaking", FEW)
@pytest.mark.xfail(strict=True)
def test_expected(leaking):
    pass
"""
    ran = run(suite, code)
    ran.assert_outcomes(failed=2, xfailed=1)
    by_fixture, by_marker = ran.stdout.str().split("_ test_marker _")
    assert "E       LEAK: mean over pads\n" in by_fixture
    assert ">       assert_padding_invariant(leaking, FEW)\n" in by_fixture
    assert "run.py" not in by_fixture
    assert "\nLEAK: mean over pads\n" in by_marker
    assert "  fix: pool with the mask" in by_marker
    assert "the test itself" not in by_marker


def test_unknown_fails(suite: pytest.Pytester) -> None:
    """A pipeline that the audit cannot judge fails with the reason."""
    code = """
@pytest.fixture
def opaque():
    return lambda texts: [[float(len(text)), 1.0] for text in texts]


@pytest.mark.padding_invariant("opaque", FEW)
def test_marker(opaque):
    pass
"""
    ran = run(suite, code)
    ran.assert_outcomes(failed=1)
    ran.stdout.fnmatch_lines(["*: unknown: this run could not decide", "note: no vector changed, and nothing shows *"])


REFUSED = {
    '"leaking", tolerance=1': "padding_invariant(fixture, texts=None): got an unexpected keyword argument 'tolerance'",
    "": "padding_invariant(fixture, texts=None): missing a required argument: 'fixture'",
    '"clean"': "padding_invariant: fixture must be the name of a fixture that the test takes, got 'clean'",
    "['number']": "padding_invariant: fixture must be the name of a fixture that the test takes, got ['number']",
    '"number"': "padding_invariant: pipeline must be a callable *, got int",
    '"leaking", texts=["a"]': "padding_invariant: texts must hold at least three different texts *, got 1: *",
}


def test_wrong_markers_are_refused(suite: pytest.Pytester) -> None:
    """A marker with unknown, missing or wrong arguments fails its test with one sentence, without a traceback."""
    code = "".join(
        f"@pytest.mark.padding_invariant({arguments})\ndef test_{number}(leaking, number): pass\n\n"
        for number, arguments in enumerate(REFUSED)
    )
    ran = run(suite, code)
    ran.assert_outcomes(failed=len(REFUSED))
    for number, sentence in enumerate(REFUSED.values()):
        pattern = sentence.replace("[", "[[]")  # a bracket begins a set of characters
        ran.stdout.fnmatch_lines([f"*_ test_{number} _*", pattern, "*___*" if number + 1 < len(REFUSED) else "*===*"],
                                 consecutive=True)  # fmt: skip


def test_methods_of_a_test_case(suite: pytest.Pytester) -> None:
    """A method of a TestCase, which takes no arguments, gets the fixture of the marker by usefixtures."""
    code = """
class TestVectors(unittest.TestCase):
    @pytest.mark.padding_invariant("leaking", FEW)
    @pytest.mark.usefixtures("leaking")
    def test_it(self):
        pass
"""
    ran = run(suite, code)
    ran.assert_outcomes(failed=1)
    ran.stdout.fnmatch_lines(["LEAK: mean over pads"])


def test_the_error_of_a_pipeline_keeps_its_traceback(suite: pytest.Pytester) -> None:
    """If the pipeline raises, the failure shows its line."""
    ran = run(suite, '@pytest.mark.padding_invariant("raising")\ndef test_marker(raising): pass\n')
    ran.assert_outcomes(failed=1)
    ran.stdout.fnmatch_lines(['>       raise RuntimeError("out of memory")'])


@pytest.mark.full  # loads the bundled model
def test_the_tests_of_the_documentation(suite: pytest.Pytester) -> None:
    """The test file that the documentation shows passes."""
    (code,) = [
        block.text
        for block in fenced_blocks((ROOT / "docs" / "audit" / "ci.md").read_text(encoding="utf-8"))
        if block.language == "python"
    ]
    importlib.import_module("sentence_transformers")  # or pytester removes what the test file imports
    run(suite, code).assert_outcomes(passed=2)


def test_a_suite_that_does_not_use_it_pays_little(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The declared entry point is loaded by pytest, registers the marker, and imports two modules of maskpool."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    lines = [f"{name} = {value}" for name, value in declared["pytest11"].items()]
    metadata = pytester.mkdir("site") / "maskpool-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: maskpool\nVersion: 0\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text("\n".join(["[pytest11]", *lines]), encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(metadata.parent), prepend=":")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile("""
import sys


def test_it(pytestconfig):
    assert pytestconfig.pluginmanager.get_plugin("maskpool").__name__ == "maskpool.pytest_plugin"
    assert any(line.startswith("padding_invariant(fixture, texts=None): ") for line in pytestconfig.getini("markers"))
    loaded = {name for name in sys.modules if name.partition(".")[0] in ("maskpool", "torch", "transformers", "numpy")}
    assert loaded == {"maskpool", "maskpool.pytest_plugin", "maskpool.errors"}
""")
    ran = pytester.run(sys.executable, "-m", "pytest", "-p", "maskpool", "-W", "error")
    ran.assert_outcomes(passed=1)
