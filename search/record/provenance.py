"""Where a result comes from: commit, versions, machine."""

import dataclasses
import hashlib
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "ray", "optuna", "wandb", "numpy", "pandas", "scikit-learn")
"""Packages on whose versions a result may depend."""
ROOT = Path(__file__).parents[2]
"""Folder of the two packages, and of configs/."""
ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
"""Environment variables that make git use another repository than that of the packages, such as in a hook."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """The code that produced a result, and its environment."""

    commit: str | None
    """None outside a repository."""
    dirty: bool | None
    """Whether files were changed since the commit."""
    source: str
    """SHA-256 of the two packages."""
    python: str
    packages: dict[str, str]
    """Versions."""
    own: dict[str, str] = dataclasses.field(default_factory=dict)
    """SHA-256 of the user's modules, by their path below the study's `code`."""


def describe_code(folder: str | None = None) -> dict[str, Any]:
    """Return the present fields of `Code`, given the folder of the user's modules if there is one.

    If git does not answer, or the packages are not at the top of a repository that tracks them, commit and dirty are
    None.
    """
    is_tracked = _ask_git("ls-files", "--error-unmatch", str(Path(__file__).relative_to(ROOT))) is not None
    is_tracked = is_tracked and _ask_git("rev-parse", "--show-prefix") == ""
    changes = _ask_git("status", "--porcelain") if is_tracked else None
    described = {
        "commit": _ask_git("rev-parse", "HEAD") if is_tracked else None,
        "dirty": None if changes is None else bool(changes),
        "source": hash_source(ROOT),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }
    return described | ({"own": hash_own(folder)} if folder else {})


def describe_commit(code: Mapping[str, Any], *, digits: int = 12) -> str:
    """Return in words a commit and whether files were changed since it; old records may lack both.

    Args:
        code: A mapping with `commit` and `dirty`.
        digits: Number of digits of the commit's hash, at most 40.
    """
    if not code.get("commit"):
        return "unknown"
    changed = {True: " with changes", False: "", None: ", perhaps with changes"}[code.get("dirty")]
    return f"{code['commit'][:digits]}{changed}"


def hash_source(root: Path) -> str:
    """Return the SHA-256 of all Python files of the two packages: any change may change a result."""
    digest = hashlib.sha256()
    for package in ("search", "trainables"):
        for path in sorted((root / package).rglob("*.py")):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root).as_posix()}\n{len(content)}\n".encode() + content)
    return digest.hexdigest()


def hash_own(folder: str | None) -> dict[str, str]:
    """Return the SHA-256 of each loaded module below a folder, by its path there, without installed packages."""
    if folder is None:
        return {}
    loaded = {Path(file) for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))}
    own = [path.resolve() for path in loaded if path.is_file() and "site-packages" not in path.parts]
    root, ours = Path(folder).resolve(), (ROOT / "search", ROOT / "trainables", Path(sys.base_prefix))
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(own)
        if path.is_relative_to(root) and not any(path.is_relative_to(each) for each in ours)
    }


def list_changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the user's modules of `hash_own` that have other content now; a process need not load all of them."""
    return [name for name in before if now.get(name, before[name]) != before[name]]


def describe_command() -> str:
    """Return the command line of this process for a shell, with only the name of the interpreter."""
    program, *arguments = sys.orig_argv or ["python"]
    return shlex.join([Path(program).name, *arguments])


def _ask_git(*arguments: str) -> str | None:
    """Return the answer of git in the packages' folder; None if it fails, such as outside a repository."""
    environment = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()
