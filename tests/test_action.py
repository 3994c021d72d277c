"""The action for workflows and the hook for pre-commit run commands that exist, and pass on their exit codes."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import FNetConfig, FNetModel

from tests.audit import planted
from tests.blocks import fenced_blocks
from tests.command import Ran, assert_refused, run
from tests.config.folders import write_model

ROOT = Path(__file__).parents[1]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
INSTALL, CHECK = ACTION["runs"]["steps"]
(HOOK,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
CI_PAGE = (ROOT / "docs" / "audit" / "ci.md").read_text(encoding="utf-8")
SERVER = "sentence-transformers==5.3"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs bash")


class Runner:
    """Run a step of the action as a runner of GitHub does: its shell as it is, and inputs in the environment."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.commands = folder, folder / "commands"
        self.commands.mkdir()
        self.install("python", f'exec "{sys.executable}" "$@"')
        self.install("maskpool", f'exec "{sys.executable}" -m maskpool "$@"')

    def install(self, name: str, code: str) -> None:
        """Put a command on the path."""
        path = self.commands / name
        path.write_text(f"#!/usr/bin/env bash\n{code}\n", encoding="utf-8")
        path.chmod(0o755)

    def run(self, step: dict[str, Any], **inputs: str) -> Ran:
        assert step["shell"] == "bash"
        given = {name: about.get("default", "") for name, about in ACTION["inputs"].items()} | inputs
        expressions = {f"${{{{ inputs.{name} }}}}": value for name, value in given.items()}
        environment = {name: expressions[value] for name, value in step.get("env", {}).items()}
        environment |= {
            "PATH": f"{self.commands}:{os.environ['PATH']}",
            "GITHUB_ACTION_PATH": str(ROOT),
            "GITHUB_OUTPUT": str(self.folder / "outputs"),
            "RUNNER_TEMP": str(self.folder),
        }
        (self.folder / "step.sh").write_text(step["run"], encoding="utf-8")
        shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(self.folder / "step.sh")]
        ran = subprocess.run(
            shell, cwd=self.folder, env=os.environ | environment, capture_output=True, text=True, check=False
        )
        return Ran(ran.returncode, ran.stdout, ran.stderr)

    def outputs(self) -> dict[str, str]:
        """Return the values that the action gives to the workflow."""
        path = self.folder / "outputs"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        written = dict(line.split("=", 1) for line in lines)
        expressions = {f"${{{{ steps.{CHECK['id']}.outputs.{name} }}}}": value for name, value in written.items()}
        return {name: expressions.get(about["value"], "") for name, about in ACTION["outputs"].items()}


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


def test_values_are_not_spliced_into_the_shell() -> None:
    """No step has an expression in its shell, and each input is a variable of a step."""
    steps = ACTION["runs"]["steps"]
    assert not [step["name"] for step in steps if "${{" in step["run"]]
    values = {value for step in steps for value in step.get("env", {}).values()}
    assert values == {f"${{{{ inputs.{name} }}}}" for name in ACTION["inputs"]}


def test_the_action_installs_its_checkout(runner: Runner) -> None:
    """The first step asks pip for the checkout that the action is in, with extras that exist."""
    runner.install("python", 'printf "%s\\n" "$@"')
    *pip, requirement = runner.run(INSTALL).out.splitlines()
    assert pip == ["-m", "pip", "install"]
    path, extras = re.fullmatch(r"(.+)\[(.+)\]", requirement).groups()  # type: ignore[union-attr]  # fails if None
    project = tomllib.loads((Path(path) / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == "maskpool"
    assert set(extras.split(",")) <= set(project["optional-dependencies"])


@pytest.mark.parametrize(
    ("checked", "audited", "code", "verdict"),
    [
        (0, 0, 0, "passed"),
        (1, 0, 1, "failed"),
        (0, 1, 1, "failed"),
        (3, 1, 1, "failed"),
        (3, 0, 3, "unknown"),
        (0, 3, 3, "unknown"),
        (0, 2, 2, ""),
        (130, 0, 130, ""),
    ],
)
def test_exit_codes(runner: Runner, checked: int, audited: int, code: int, verdict: str) -> None:
    """A failure of one command fails the step, an unknown one makes it unknown, and an error ends it."""
    runner.install("maskpool", f'[[ $1 == config ]] && code={checked} || code={audited}; echo "\\"$1\\""; exit "$code"')
    ran = runner.run(CHECK, folder="model", server=SERVER)
    assert ran.code == code, ran.err
    outputs = runner.outputs()
    assert outputs["verdict"] == verdict
    if verdict:
        report = Path(outputs["report"]).read_text(encoding="utf-8")
        assert json.loads(ran.out) == json.loads(report) == {"config": "config", "audit": "audit"}


def test_arguments_arrive_as_they_are(runner: Runner) -> None:
    """A folder with letters of the shell is one argument, servers are split, and a pooling is passed if given."""
    runner.install("maskpool", 'printf "%s\\n" "$@" >> calls; echo {}')
    folder = '-x $(touch made) "; touch made #'
    assert runner.run(CHECK, folder=folder, server=" vllm==0.30\n infinity ", pooling="cls").code == 0
    arguments = (runner.folder / "calls").read_text(encoding="utf-8").splitlines()
    check = ["config", "check", "--json", "--server=vllm==0.30", "--server=infinity", "--pooling=cls", "--", folder]
    assert arguments == [*check, "audit", "--json", "--", folder]
    assert not (runner.folder / "made").exists()


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        (
            {"folder": "missing", "server": SERVER},
            "FOLDER must be the folder of a model, .*, got missing, which does not exist",
        ),
        ({"folder": "model", "server": " "}, "folder and server must be given, got folder 'model' and server ' '"),
        ({"server": SERVER}, f"folder and server must be given, got folder '' and server '{SERVER}'"),
    ],
    ids=["missing folder", "no server", "no folder"],
)
def test_errors(runner: Runner, inputs: dict[str, str], sentence: str) -> None:
    """A missing folder, or an input that is not given, ends the step with exit code 2 and one sentence."""
    assert_refused(runner.run(CHECK, **inputs), sentence)
    assert runner.outputs()["verdict"] == ""


def save_model(folder: Path, mode: str = "mean", encoder: str = "bert") -> None:
    """Save a tiny model with an encoder that masks attention, or with one that mixes all positions."""
    write_model(folder, "old", mode, word_embedding_dimension=planted.DIM)
    planted.tokenizer().save_pretrained(folder)
    if encoder == "fnet":
        mixing = FNetConfig(vocab_size=len(planted.WORDS) + 4, hidden_size=planted.DIM, num_hidden_layers=1)
        planted.drawn(FNetModel(mixing), 0).save_pretrained(folder)
    else:
        planted.bert().save_pretrained(folder)


@pytest.mark.full  # starts torch for each
@pytest.mark.parametrize(
    ("settings", "server", "code", "verdicts"),
    [
        ({}, SERVER, 0, ("passed", "same", "clean")),
        ({"mode": "max"}, "vllm==0.30", 1, ("failed", "different", "clean")),
        ({"encoder": "fnet"}, SERVER, 1, ("failed", "same", "leaks")),
        ({}, "llama.cpp", 3, ("unknown", "set by the caller", "clean")),
    ],
    ids=["clean", "wrong pooling", "leak", "unknown"],
)
def test_models(
    runner: Runner, settings: dict[str, Any], server: str, code: int, verdicts: tuple[str, str, str]
) -> None:
    """A clean model passes; another pooling in a server and a leak of pads fail; the report says which."""
    save_model(runner.folder / "model", **settings)
    ran = runner.run(CHECK, folder="model", server=server)
    assert ran.code == code, ran.err
    outputs = runner.outputs()
    report = json.loads(Path(outputs["report"]).read_text(encoding="utf-8"))
    ((check,), audit) = report["config"], report["audit"]
    assert (outputs["verdict"], check["verdict"], audit["verdict"]) == verdicts


def test_the_hook_runs_a_command(tmp_path: Path) -> None:
    """The hook's entry with a folder and a server is a command that passes and fails as `config check` does."""
    assert HOOK["language"] == "system"  # needs the user's environment; others would install torch again
    assert HOOK["pass_filenames"] is False
    program, *arguments = shlex.split(HOOK["entry"])
    assert program == "maskpool"
    assert run(*arguments, write_model(tmp_path / "old", "old"), "--server", SERVER).code == 0
    assert run(*arguments, write_model(tmp_path / "new", "new"), "--server", SERVER).code == 1


@pytest.mark.parametrize("layout", ["old", "new", "ours"])
def test_the_hook_runs_when_settings_change(tmp_path: Path, layout: str) -> None:
    """The hook runs if any file of a model changes that says what it computes, and not for weights or code."""
    write_model(tmp_path, layout, dense=True, normalize=True)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    changed = {name for name in files if re.search(HOOK["files"], f"models/mine/{name}")}
    assert files - changed == {"tokenizer.json"}
    assert re.search(HOOK["files"], "models/mine.gguf")
    assert not re.search(HOOK["files"], "src/config.py")


def test_the_configurations_of_the_documentation() -> None:
    """The documentation names the hook and inputs of the action that exist, and gives the required ones."""
    hook, workflow = (yaml.safe_load(block.text) for block in fenced_blocks(CI_PAGE) if block.language == "yaml")
    (shown,) = hook[0]["hooks"]
    assert shown["id"] == HOOK["id"]
    (job,) = workflow["jobs"].values()
    (step,) = (step for step in job["steps"] if step["uses"].startswith("./"))
    required = {name for name, about in ACTION["inputs"].items() if about.get("required")}
    assert required <= set(step["with"]) <= set(ACTION["inputs"])
