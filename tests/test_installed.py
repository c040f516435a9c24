"""The project as `pip install .` leaves it: the command, the shipped studies, and what is said of the code."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from search.config.yaml import read_yaml

ROOT = Path(__file__).parent.parent
SHIPPED = ("search", "trainables", "configs", "pyproject.toml", "README.md", "LICENSE")
SMALL = ("search.architectures=[cnn]", "search.shares=null", "search.num_trials=2", "search.max_epochs=1")
SMALL = (*SMALL, "search.grace_epochs=1", "data.max_train_images=100", "evaluation.seeds=1")
BUNDLED = [f"models/cnn-seed0{suffix}" for suffix in (".safetensors", ".json", ".md")]
"""Files of a published study that are installed."""

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def call(*command, cwd):
    alone = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "WANDB_API_KEY")}
    alone |= {"CI": "true", "WANDB_MODE": "offline", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=alone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A fresh virtual environment with the project's wheel; the packages are those of this one. Nothing is fetched."""
    folder = tmp_path_factory.mktemp("installed")
    for name in SHIPPED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / "source" / name)
    for study in ("night", "open/other"):
        for name in BUNDLED:
            path = folder / "source/reference" / study / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("to be replaced")
    (folder / "source/reference/night/study.yaml").write_text("not installed")
    offline = ("--no-deps", "--no-index", "--quiet")
    pip = (sys.executable, "-m", "pip")
    call(*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", folder, folder / "source", cwd=folder)
    call(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    python = folder / "venv/bin/python"
    (wheel,) = folder.glob("*.whl")
    call(*pip, "--python", python, "install", *offline, wheel, cwd=folder)
    (site,) = folder.glob("venv/lib/*/site-packages")
    others = [path for path in sys.path if Path(path).name == "site-packages"]
    (site / "others.pth").write_text("\n".join(others) + "\n")
    return folder / "venv"


@pytest.fixture
def repository(tmp_path):
    """An empty folder of the user's own, in a repository with a commit."""
    author = ("-c", "user.name=someone", "-c", "user.email=someone@localhost")
    call("git", "init", "--quiet", cwd=tmp_path)
    call("git", *author, "commit", "--quiet", "--allow-empty", "--message", "mine", cwd=tmp_path)
    return tmp_path


def test_the_default_study_runs_in_an_empty_folder(environment, repository):
    settings = [f"--set={setting}" for setting in (*SMALL, f"data.cache={repository}/cache")]
    call(environment / "bin/cifake-search", "run", "--plain", *settings, cwd=repository)
    assert {path.name for path in repository.iterdir()} == {".git", "cache", "results"}
    record = read_yaml(repository / "results/local/study.yaml")
    assert record["code"]["commit"] is None
    assert record["code"]["dirty"] is None
    assert (repository / "results/local/report/report.html").exists()
    assert (repository / "results/local/trials.csv").exists()

    [published] = environment.glob("lib/*/site-packages/reference/night")
    assert sorted(str(path.relative_to(published)) for path in published.rglob("*.*")) == sorted(BUNDLED)
    assert not (published.parent / "open").exists()
    for name in BUNDLED:
        shutil.copy(repository / "results/local" / name, published / name)
    [sample] = (repository / "cache").glob("sample-*.zip")
    with zipfile.ZipFile(sample) as images:
        photo = images.extract(next(name for name in images.namelist() if name.startswith("test/REAL/")), repository)
    answer = call(environment / "bin/cifake-search", "predict", photo, cwd=repository)
    assert answer.endswith(f"  {photo}\n")


def test_a_shipped_study_is_named_as_in_a_checkout_and_can_be_extended(environment, repository):
    command = (environment / "bin/cifake-search", "run", "--dry-run", "--set=data.path=sample")
    assert "num_trials: 12" in call(*command, "configs/local.yaml", cwd=repository)
    (shipped,) = environment.glob("lib/*/site-packages/configs/local.yaml")
    (repository / "mine.yaml").write_text(f"extends: {shipped}\nname: mine\nsearch: {{num_trials: 13}}\n")
    assert "num_trials: 13" in call(*command, "mine.yaml", cwd=repository)
    (repository / "configs").mkdir()
    (repository / "configs/local.yaml").write_text(f"extends: {shipped}\nsearch: {{num_trials: 14}}\n")
    assert "num_trials: 14" in call(*command, "configs/local.yaml", cwd=repository)
    assert "num_trials: 12" in call(*command, cwd=repository)
