"""Test `maskpool info`."""

from __future__ import annotations

import getpass
import json
import platform
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

import maskpool
from maskpool.cli.info import EXTRAS
from tests.command import in_a_process, run

ROOT = Path(__file__).parents[2]


def report(*arguments: str) -> dict[str, Any]:
    ran = run("info", "--json", *arguments)
    assert (ran.code, ran.err) == (0, "")
    content: dict[str, Any] = json.loads(ran.out)
    return content


def install(folder: Path, name: str, version: str, *requirements: str) -> None:
    """Write the metadata of an installed package."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {requirement}" for requirement in requirements]
    (info / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_versions_are_those_of_the_installed_packages() -> None:
    """The report holds the versions of maskpool and Python, and of every package of the extras that is installed."""
    content = report()
    assert content["maskpool"] == maskpool.__version__
    assert content["python"].startswith("{}.{}.{} ".format(*sys.version_info))
    names = {package["name"] for package in content["packages"]}
    assert {"torch", "transformers", "sentence-transformers", "scikit-learn", "mteb", "onnx", "typer"} <= names
    for package in content["packages"]:
        try:
            expected = metadata.version(package["name"])
        except metadata.PackageNotFoundError:
            expected = None
        assert package["version"] == expected


def test_versions_outside_the_supported_range_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages that are missing, too old or damaged make their extras incomplete; the report has the command."""
    extras = ["host>=2.0; extra == 'st'", "host>=2.0; extra == 'mteb'", "old>=2.0; extra == 'mteb'"]
    extras += ["gone>=1.0; extra == 'onnx'", "odd>=1.0; extra == 'onnx'", "unseen; extra == 'dev'"]
    install(tmp_path, "maskpool", "0.1.0", "torch>=1.0", "elsewhere; sys_platform == 'none'", *extras)
    install(tmp_path, "host", "2.0")
    install(tmp_path, "old", "1.9")
    install(tmp_path, "odd", "unreadable")
    monkeypatch.syspath_prepend(tmp_path)
    content = report()
    assert {package["name"]: (package["version"], package["supported"]) for package in content["packages"]} == {
        "torch": (metadata.version("torch"), True),
        "host": ("2.0", True),
        "old": ("1.9", False),
        "gone": (None, False),
        "odd": ("unreadable", False),
    }
    assert [package["extras"] for package in content["packages"]][:3] == [[], ["st", "mteb"], ["mteb"]]
    assert content["incomplete_extras"] == [
        {"extra": "mteb", "packages": ["old"], "command": 'pip install "maskpool[mteb]"'},
        {"extra": "onnx", "packages": ["gone", "odd"], "command": 'pip install "maskpool[onnx]"'},
    ]
    lines = [" ".join(line.split()) for line in run("info").out.splitlines()]
    assert "host 2.0 >=2.0 st, mteb" in lines
    assert "old 1.9 >=2.0 mteb not supported" in lines
    assert "gone - >=1.0 onnx not installed" in lines
    assert lines[-1] == 'the extra onnx is incomplete (gone, odd): pip install "maskpool[onnx]"'


def test_without_metadata_the_rest_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """If maskpool's files are used without being installed, the report says so and holds everything else."""

    def not_found(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.requires", not_found)
    assert report()["packages"] == []
    ran = run("info")
    assert ran.code == 0
    assert "packages  unknown: maskpool is not installed" in ran.out
    assert "device    cpu: 1 thread" in ran.out


def test_devices_are_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report holds the number of CPU threads, every CUDA device with its name, and MPS."""
    assert report()["devices"][0] == {"device": "cpu", "details": f"{torch.get_num_threads()} thread"}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"Card {index}")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert report()["devices"][1:] == [
        {"device": "cuda:0", "details": "Card 0, torch built for CUDA 12.8"},
        {"device": "cuda:1", "details": "Card 1, torch built for CUDA 12.8"},
        {"device": "mps", "details": "available"},
    ]


def test_a_broken_device_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that fails, or a torch that cannot be imported, is reported only by the type of its error."""

    def fail(index: int) -> str:
        raise RuntimeError("cannot read /home/someone/driver.so")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", fail)
    assert report()["devices"][1] == {"device": "cuda", "details": "cannot be used (RuntimeError)"}
    monkeypatch.setitem(sys.modules, "torch", None)
    assert report()["devices"] == [{"device": "none", "details": "torch cannot be imported (ModuleNotFoundError)"}]


def test_the_report_can_be_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report holds no path, user name, host name or value of an environment variable."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:password@proxy.invalid")
    for ran in (run("info"), run("info", "--json")):
        for private in filter(None, ("hf_secret", "password", "/", "\\", getpass.getuser(), platform.node())):
            assert private not in ran.out + ran.err


def test_heavy_packages_are_not_imported() -> None:
    """Only torch and the packages of the command line are imported, although more are reported."""
    code = "import sys\nfrom maskpool.cli.info import info\ninfo(as_json=False)\nprint(*sys.modules, file=sys.stderr)"
    ran = in_a_process(sys.executable, "-c", code)
    loaded = set(ran.err.split())
    assert {"maskpool.cli.info", "torch"} <= loaded
    assert not loaded & {"transformers", "sentence_transformers", "sklearn", "datasets", "pandas", "mteb", "onnx"}


@pytest.mark.parametrize("arguments", [["--jsn"], ["extra"], ["--json=yes"], ["--json", "no"], [""]], ids=" ".join)
def test_a_wrong_command_line_is_2(arguments: list[str]) -> None:
    """Unknown options and arguments end with exit code 2 and without a traceback."""
    ran = run("info", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert "--help lists what is accepted" in ran.err
    assert "Traceback" not in ran.err


def test_every_extra_is_for_users_or_for_development() -> None:
    """A new extra must be added to the report, or to the extras of the development."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    development = {"dev", "docs", "encoders", "mutation", "notebooks", "peers", "test"}
    assert set(project["optional-dependencies"]) - development == set(EXTRAS)
