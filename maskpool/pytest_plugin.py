"""Audit pipelines in test suites: a fixture and a marker of pytest.

pytest loads this plugin in every environment with maskpool; ``pytest -p no:maskpool`` turns it off. It adds no options,
and imports torch only when a test uses it.

The fixture ``assert_padding_invariant`` is the function `maskpool.assert_padding_invariant`::

    def test_vectors_do_not_depend_on_the_batch(assert_padding_invariant):
        assert_padding_invariant("models/my-model")

The marker ``padding_invariant(fixture, texts=None)`` audits the value of a fixture that the test uses. The test fails
with the report, before its own code runs, unless the verdict is ``clean``; ``texts`` as in `maskpool.audit_padding`.
Repeat the marker to audit several fixtures::

    @pytest.mark.padding_invariant("embed")
    def test_search(embed): ...
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from maskpool.errors import MaskpoolError

__all__ = ["assert_padding_invariant"]

_MARKER = "padding_invariant"
_SIGNATURE = inspect.signature(lambda fixture, texts=None: None)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    meaning = "audit the value of a fixture, and fail with the report unless padding leaves its vectors unchanged"
    config.addinivalue_line("markers", f"{_MARKER}{_SIGNATURE}: {meaning}")


@pytest.fixture(scope="session")
def assert_padding_invariant() -> Callable[..., None]:
    """Give a test the function `maskpool.assert_padding_invariant`, which is imported when the first test uses it."""
    from maskpool import audit

    return audit.assert_padding_invariant


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Audit what the markers of a test name."""
    for marker in item.iter_markers(_MARKER):
        pipeline, texts = _read(marker, getattr(item, "funcargs", {}))
        from maskpool import audit

        try:
            report = audit.audit_padding(pipeline, texts)
        except MaskpoolError as error:
            if error.__cause__ is None:
                raise _failure(f"{_MARKER}: {error}") from None
            raise  # the traceback shows where the pipeline raised
        if report.verdict != "clean":
            raise _failure(str(report))


def _read(marker: pytest.Mark, fixtures: Mapping[str, object]) -> tuple[object, Any]:
    """Return the pipeline and the texts that a marker names."""
    try:
        given = _SIGNATURE.bind(*marker.args, **marker.kwargs).arguments
    except TypeError as error:
        raise _failure(f"{_MARKER}{_SIGNATURE}: {error}") from None
    name = given["fixture"]
    if name not in list(fixtures):  # a name of any type
        raise _failure(f"{_MARKER}: fixture must be the name of a fixture that the test takes, got {name!r}")
    return fixtures[name], given.get("texts")


def _failure(message: str) -> BaseException:
    """Make the failure of a test that shows its message without a traceback."""
    return pytest.fail.Exception(message, pytrace=False)
