"""What made a result: commit, versions, machine; and files that are there whole or not at all."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trainables.errors import InputError

PACKAGES = ("torch", "torchvision", "ray", "optuna", "wandb", "numpy", "pandas", "scikit-learn")
"""Whose versions a result may depend on."""


def describe_code() -> dict[str, Any]:
    """Return the commit of the code, whether it was changed since, and the versions it runs on."""
    return {
        "commit": _ask_git("rev-parse", "HEAD"),
        "dirty": bool(_ask_git("status", "--porcelain")),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def check_target(path: Path) -> None:
    """Check before the work that a new file can be written.

    Raises:
        InputError: If it is there already, or its folder is not.
    """
    if path.exists():
        raise InputError(f"{path} exists: remove it, or give another name")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} is not a folder: make it, or write elsewhere")


def replace_file(partial: Path, path: Path) -> None:
    """Put a finished file in its place: on the disk first, then renamed, so that no reader meets half of it."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def write_file(path: Path, content: bytes) -> Path:
    """Write a file in one step, its folder too if missing, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    replace_file(partial, path)
    return path


def _ask_git(*arguments: str) -> str | None:
    """Return what git says of the folder that holds this package, or None outside a repository."""
    folder = Path(__file__).parent
    try:
        answer = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()
