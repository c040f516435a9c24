import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from search.__main__ import COMMANDS

ROOT = Path(__file__).parents[2]


def call(*arguments):
    command = [sys.executable, "-m", "search", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_without_a_command_all_are_listed(arguments):
    done = call(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()[2:]] == list(COMMANDS)


def test_an_unknown_command_is_one_sentence_with_the_known_ones():
    done = call("inspekt", "results/mine")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: unknown command 'inspekt'; known: {', '.join(COMMANDS)}\n"


def test_a_command_is_called_with_its_arguments():
    done = call("inspect", "results/nothing")
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no study in results/nothing")
    assert "Usage: python -m search inspect" in call("inspect", "--help").stdout


@pytest.mark.parametrize(("module", "purpose"), COMMANDS.values(), ids=list(COMMANDS))
def test_every_command_has_a_main_and_a_purpose(module, purpose):
    assert callable(importlib.import_module(module).main)
    assert purpose[0].islower()
    assert not purpose.endswith(".")


def test_the_console_script_is_the_same():
    scripts = (ROOT / "pyproject.toml").read_text().partition("[project.scripts]\n")[2]
    assert scripts.startswith('cifake-search = "search.__main__:main"')
