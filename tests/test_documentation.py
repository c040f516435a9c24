"""README.md and docs/ are true: the tree, the commands, the paths, the figures, the files for other tools."""

import dataclasses
import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from docs import hooks
from search.__main__ import COMMANDS as COMMANDS_OF
from search.config.schema import StudyConfig

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = {"README.md": README} | {f"docs/{path.name}": path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
BLOCKS = [
    (name, *block) for name, text in PAGES.items() for block in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)
]
COMMANDS = list(
    dict.fromkeys(
        line.split("  #")[0].strip()
        for _, language, block in BLOCKS
        if language == "bash"
        for line in block.splitlines()
    )
)
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
FIGURES = (ROOT / "LOG.md").read_text().partition("## Figures in force\n")[2].partition("\n## ")[0]


def list_files():
    listed = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.splitlines()
    return {name for name in names if (ROOT / name).exists()}


def test_the_tree_in_the_documentation_is_the_real_tree():
    tree = next(block for name, language, block in BLOCKS if name == "docs/design.md" and not language)
    listed = {line.split()[0] for line in tree.splitlines() if line.strip()}
    folders = ("tests/", "reference/")
    real = {next((each for each in folders if name.startswith(each)), name) for name in list_files()}
    assert listed == real


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("python -m search.run")])
def test_every_search_command_in_the_documentation_parses(command, tmp_path, monkeypatch):
    import typer

    from search.run import main

    app = typer.Typer()
    app.command()(main)
    monkeypatch.chdir(ROOT)
    arguments = [part for part in shlex.split(command)[3:] if part not in ("--dry-run", "--resume")]
    result = CliRunner().invoke(app, [*arguments, "--dry-run", "--set", f"results={tmp_path}"])
    assert result.exit_code == 0, result.output
    assert re.search("^Epochs: .* trials$", result.output, re.MULTILINE)


@pytest.mark.parametrize("command", [command for command in COMMANDS if "-m search evaluate" in command])
def test_every_evaluation_command_in_the_documentation_parses(command, tmp_path, monkeypatch):
    import typer

    from search.commands.evaluate import main

    app = typer.Typer()
    app.command()(main)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, shlex.split(command)[4:])
    assert result.exit_code == 2
    assert "error: there is no study in results/mine" in result.output


@pytest.mark.parametrize("command", [command for command in COMMANDS if "-m search audit" in command])
def test_every_audit_command_in_the_documentation_works(command, image_zip, tmp_path, monkeypatch):
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
def test_every_command_on_models_in_the_documentation_parses(command, tmp_path, monkeypatch):
    """All that can be wrong is that there is no such study, model or picture."""
    import typer

    monkeypatch.chdir(tmp_path)
    name, *arguments = shlex.split(command)[3:]
    app = typer.Typer()
    app.command()(importlib.import_module(COMMANDS_OF[name][0]).main)
    result = CliRunner().invoke(app, arguments)
    [said] = [line for line in result.stderr.splitlines() if not line.startswith("note: ")]
    assert result.exit_code == {"error": 2, "skipped": 1}[said.partition(":")[0]]
    assert re.search("does not exist|no such file|there is no study|no model is bundled", said)


@pytest.mark.parametrize(
    "command", [command for command in COMMANDS if re.search(r"-m search (inspect|dash|sync)", command)]
)
def test_every_command_that_looks_at_a_study_parses(command, tmp_path, monkeypatch):
    import typer

    app = typer.Typer()
    _, _, _, name, *arguments = shlex.split(command)
    app.command()(importlib.import_module(COMMANDS_OF[name][0]).main)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.stderr.partition(":")[0]) == (2, "error"), result.output
    assert f"there is no study in {arguments[0]}" in result.stderr


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make ")])
def test_every_make_target_in_the_documentation_exists(command):
    assert (
        subprocess.run(["make", "-n", command.split()[1]], cwd=ROOT, capture_output=True, check=False).returncode == 0
    )


def test_every_command_of_the_documentation_is_one_that_these_tests_know():
    known = (
        ". .venv/bin/activate",
        "make ",
        "python -m search.run",
        *(f"python -m search {name} " for name in COMMANDS_OF),
        "ray ",
        *(f"python {name}" for name in list_files() if name.startswith("examples/")),  # tests/examples run them
    )
    assert [command for command in COMMANDS if not command.startswith(known)] == []


@pytest.mark.parametrize("name", PAGES)
def test_every_link_to_a_file_leads_somewhere(name):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", PAGES[name])
    for link in links:
        assert link.startswith("https://") or ((ROOT / name).parent / link).exists(), link


@pytest.mark.parametrize("name", PAGES)
def test_every_path_that_a_page_names_exists(name):
    text = re.sub(r"```.*?```", "", PAGES[name], flags=re.DOTALL)
    paths = re.findall(r"`((?:search|trainables|tests|configs|benchmarks|docs)/[^`\s]*)`", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_readme_is_read_in_three_minutes():
    assert len(README.splitlines()) <= 180
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    paragraphs = [text for text in re.split(r"\n\n|\n(?=- )", prose) if not text.startswith("|")]
    assert [text for text in paragraphs if len(text.split()) > 80] == []


def test_the_pictures_are_small_and_ask_no_other_host():
    sizes = {path.name: path.stat().st_size for path in (ROOT / "docs" / "pictures").iterdir()}
    assert {"live.svg", "report.png", "regret.png", "design.svg"} == set(sizes)
    assert max(size for name, size in sizes.items() if name.endswith(".svg")) < 200_000
    assert max(size for name, size in sizes.items() if name.endswith(".png")) < 300_000
    for name in ("live.svg", "design.svg"):
        assert not re.search(r"(href|src|url)\W+https?:", (ROOT / "docs" / "pictures" / name).read_text())


def test_a_number_of_the_configuration_without_a_unit_is_refused():
    assert hooks.find_unit("timeout_s", float | None) == "seconds"
    with pytest.raises(ValueError, match="speed is a number without a unit"):
        hooks.find_unit("speed", int)


def test_the_command_that_makes_the_pictures_loads():
    assert callable(importlib.import_module("docs.pictures").main)


def list_keys(kind, prefix=""):
    for name, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            yield from list_keys(hint, f"{prefix}{name}.")
        elif name != "recipes":
            yield f"{prefix}{name}"


def test_the_site_builds_without_a_warning_has_every_key_and_asks_no_other_host(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    studies = (tmp_path / "studies.html").read_text()
    assert [key for key in list_keys(StudyConfig) if f"<code>{key}</code>" not in studies] == []
    assert FIGURES.split("|")[1].strip() in (tmp_path / "figures.html").read_text()
    for page in tmp_path.glob("*.html"):
        assert "<!-- " not in page.read_text().partition("<article")[2].partition("</article")[0], page.name
        assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=.?(https?:)?//", page.read_text()), page.name


def test_every_figure_in_force_has_a_command_that_exists_and_a_section_of_its_date():
    log = (ROOT / "LOG.md").read_text()
    rows = [row.split(" | ") for row in FIGURES.splitlines() if row.startswith("| ")][1:]
    assert len(rows) > 20
    for _, _, commands, date in rows:
        for module in re.findall(r"python -m ([\w.]+)", commands):
            assert importlib.util.find_spec(module), module
        assert set(re.findall(r"`make ([\w-]+)`", commands)) <= TARGETS
        assert f"\n## {date.strip(' |')}" in log


def load(name):
    return yaml.safe_load((ROOT / name).read_text())


def test_the_workflow_on_github_is_what_continuous_integration_runs():
    [job] = load(".github/workflows/ci.yml")["jobs"].values()
    runs = [step["run"] for step in job["steps"] if "run" in step]
    script = (ROOT / ".ci" / "run").read_text()
    targets = [run.split()[1] for run in runs if run.startswith("make ")]
    assert targets == re.findall(r"^make (\S+)$", script, re.MULTILINE)
    assert set(targets) <= TARGETS
    [install] = [run for run in runs if "apt-get install" in run]
    packages = install.partition("--no-install-recommends ")[2].split()
    asked = re.findall(r"\|\| (?:\{ )?install ([a-z0-9 -]+)", script)
    assert set(packages) == {package for names in asked for package in names.split()}


def test_the_hooks_before_a_commit_are_what_make_check_runs():
    [repository] = load(".pre-commit-config.yaml")["repos"]
    hooks = {hook["entry"].replace(".venv/bin/", "") for hook in repository["hooks"]}
    recipe = subprocess.run(
        ["make", "--no-print-directory", "-n", "check"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    checks = recipe.splitlines()[-1].replace(".venv/bin/", "").split(" && ")
    assert hooks == {*checks, "make docs"}
    assert "mkdocs build --strict" in recipe


def test_the_citation_names_the_project_and_the_paper_of_the_data():
    citation = load("CITATION.cff")
    assert (citation["cff-version"], citation["title"], citation["license"]) == ("1.2.0", "cifake-search", "MIT")
    assert [reference["url"] for reference in citation["references"]] == ["https://arxiv.org/abs/2303.14126"]


def test_the_repository_names_no_machine_of_ours():
    forbidden = re.compile(r"(^|[^A-Za-z0-9.])/(work|opt)/")
    for name in list_files():
        if (
            name.endswith((".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".cff", ".svg"))
            and name != "tests/test_documentation.py"
        ):
            assert not forbidden.search((ROOT / name).read_text()), name
