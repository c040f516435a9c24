"""The project as a user installs it: a wheel, run in an empty folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from search.config.yaml import read_yaml

ROOT = Path(__file__).parents[1]
SMALL = ["search.num_trials=2", "search.max_epochs=1", "search.grace_epochs=1", "search.architectures=[cnn]"]
SMALL += ["search.shares=null", "search.first=[]", "evaluation.seeds=1", "data.max_train_images=100"]
SMALL += ["tracking.mode=off", "cluster.cpus=2", "data.cache=cache"]


def call(*command, **options):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The installed command, in an environment that sees the packages of this one but not its project."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    for name in ("search", "trainables", "configs"):
        shutil.copytree(ROOT / name, source / name, symlinks=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    call(*pip, "wheel", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", folder, source)
    call(sys.executable, "-m", "venv", "--without-pip", folder / "env")
    python = folder / "env/bin/python"
    site = Path(call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    others = [path for path in sys.path if Path(path).name == "site-packages"]
    (site / "others.pth").write_text("\n".join(others) + "\n")
    call(*pip, "--python", python, "install", "--no-deps", "--no-index", *folder.glob("*.whl"))
    return folder / "env/bin/cifake-search"


@pytest.mark.slow
@pytest.mark.ray
def test_the_default_study_runs_in_an_empty_folder_and_records_no_foreign_commit(program, tmp_path):
    call("git", "init", "-q", tmp_path)
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
    call("git", "-C", tmp_path, *identity, "commit", "-q", "--allow-empty", "-m", "Begin")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"CI": "true", "GIT_DIR": str(tmp_path / ".git"), "GIT_WORK_TREE": str(tmp_path)}
    settings = [part for setting in SMALL for part in ("--set", setting)]
    told = call(program, "run", *settings, "--plain", cwd=tmp_path, env=environment)
    assert "results/local/report/report.html" in told
    assert (tmp_path / "results/local/report/report.html").exists()
    code = read_yaml(tmp_path / "results/local/study.yaml")["code"]
    assert (code["commit"], code["dirty"]) == (None, None)
    assert str(ROOT) not in call(program.parent / "python", "-c", "import search; print(search.__file__)", cwd=tmp_path)


@pytest.mark.slow
def test_the_installed_default_has_its_recipes(program, tmp_path):
    assert "paper_cnn.yaml" in call(program, "run", "--dry-run", cwd=tmp_path)
