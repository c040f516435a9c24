"""What made a result: commit, versions, machine; and files that are there whole or not at all."""

import dataclasses
import hashlib
import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trainables.errors import InputError
from trainables.files import create_file

PACKAGES = ("torch", "torchvision", "ray", "optuna", "wandb", "numpy", "pandas", "scikit-learn")
"""Whose versions a result may depend on."""
ROOT = Path(__file__).parent.parent
"""Folder that holds the two packages."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """The code that made something, and what it ran on."""

    commit: str | None
    """None outside a repository."""
    dirty: bool | None
    """Whether files were changed since the commit."""
    source: str
    """SHA-256 of the two packages."""
    python: str
    packages: dict[str, str]
    """Versions."""


def describe_code() -> dict[str, Any]:
    """Return the fields of `Code` as they are now."""
    return {
        "commit": _ask_git("rev-parse", "HEAD"),
        "dirty": bool(_ask_git("status", "--porcelain")),
        "source": hash_source(ROOT),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def hash_source(root: Path) -> str:
    """Return the SHA-256 over every Python file of the two packages: whatever changes it may change a result."""
    digest = hashlib.sha256()
    for package in ("search", "trainables"):
        for path in sorted((root / package).rglob("*.py")):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root).as_posix()}\n{len(content)}\n".encode() + content)
    return digest.hexdigest()


def describe_command() -> str:
    """Return the command line of this process, to be typed into a shell; of the interpreter's path the name alone."""
    program, *arguments = sys.orig_argv or ["python"]
    return shlex.join([Path(program).name, *arguments])


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
    with create_file(partial) as file:
        file.write(content)
    replace_file(partial, path)
    return path


def _ask_git(*arguments: str) -> str | None:
    """Return what git says of the packages' folder, or None outside a repository."""
    try:
        answer = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()
