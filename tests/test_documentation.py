"""The README is true: its tree, its commands, its keys."""

import importlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from search.__main__ import COMMANDS as COMMANDS_OF

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line.split("  #")[0].strip() for language, block in BLOCKS if language == "bash" for line in block.splitlines()
]


def list_files():
    listed = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.splitlines()
    return {name for name in names if (ROOT / name).exists()}


def test_the_tree_in_the_readme_is_the_real_tree():
    tree = next(block for language, block in BLOCKS if not language)
    told = {line.split()[0] for line in tree.splitlines() if line.strip()}
    real = {name if not name.startswith("tests/") else "tests/" for name in list_files()}
    assert told == real


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("python -m search.run")])
def test_every_search_command_in_the_readme_parses(command, tmp_path, monkeypatch):
    import typer

    from search.run import main

    app = typer.Typer()
    app.command()(main)
    monkeypatch.chdir(ROOT)
    arguments = [part for part in shlex.split(command)[3:] if part not in ("--dry-run", "--resume")]
    result = CliRunner().invoke(app, [*arguments, "--dry-run", "--set", f"results={tmp_path}"])
    assert result.exit_code == 0, result.output
    assert "Rungs:" in result.output


@pytest.mark.parametrize("command", [command for command in COMMANDS if "-m search evaluate" in command])
def test_every_evaluation_command_in_the_readme_parses(command, tmp_path, monkeypatch):
    import typer

    from search.commands.evaluate import main

    app = typer.Typer()
    app.command()(main)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, shlex.split(command)[4:])
    assert result.exit_code == 2
    assert "error: there is no study in results/mine" in result.output


@pytest.mark.parametrize("command", [command for command in COMMANDS if "-m search audit" in command])
def test_every_audit_command_in_the_readme_works(command, image_zip, tmp_path, monkeypatch):
    import typer

    from search.commands.audit import main

    app = typer.Typer()
    app.command()(main)
    monkeypatch.chdir(tmp_path)
    source, *options = shlex.split(command)[4:]
    image_zip.rename(source)
    result = CliRunner().invoke(app, [source, *options])
    assert result.exit_code == 0, result.output
    assert f"{source}: 50 images" in result.output


@pytest.mark.parametrize("command", [c for c in COMMANDS if re.search(r"-m search (reproduce|predict|export)", c)])
def test_every_command_on_models_in_the_readme_parses(command, tmp_path, monkeypatch):
    """All that can be wrong is that there is no such study or model."""
    import typer

    monkeypatch.chdir(tmp_path)
    name, *arguments = shlex.split(command)[3:]
    app = typer.Typer()
    app.command()(importlib.import_module(COMMANDS_OF[name][0]).main)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert re.search("does not exist|no such file|there is no study", result.stderr)
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "command", [command for command in COMMANDS if re.search(r"-m search (inspect|dash)", command)]
)
def test_every_command_that_looks_at_a_study_parses(command, tmp_path, monkeypatch):
    import typer

    app = typer.Typer()
    _, _, _, name, *arguments = shlex.split(command)
    app.command()(importlib.import_module(COMMANDS_OF[name][0]).main)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.stderr.partition(":")[0]) == (2, "error"), result.output
    assert "there is no study in results/mine" in result.stderr


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make ")])
def test_every_make_target_in_the_readme_exists(command):
    assert (
        subprocess.run(["make", "-n", command.split()[1]], cwd=ROOT, capture_output=True, check=False).returncode == 0
    )


def test_every_link_to_a_file_leads_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_the_repository_names_no_machine_of_ours():
    forbidden = re.compile(r"(^|[^A-Za-z0-9.])/(work|opt)/")
    for name in list_files():
        if name.endswith((".py", ".md", ".toml", ".yaml", ".txt")) and name != "tests/test_documentation.py":
            assert not forbidden.search((ROOT / name).read_text()), name
