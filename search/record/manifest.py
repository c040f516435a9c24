"""The manifest, study.yaml: configuration, data and code of a study, and its evaluations; compared on resume."""

import dataclasses
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search.config.data import CIFAKE, Classes
from search.config.fields import Label
from search.config.load import check, dump
from search.config.printable import escape
from search.config.schema import MANIFEST, StudyConfig
from search.config.untrusted import check_folder
from search.config.yaml import read_untrusted_yaml, write_yaml
from search.record.choices import Evaluation
from search.record.learnt import Learnt
from search.record.provenance import Code, describe_code, describe_command, describe_commit, list_changed
from trainables.errors import InputError
from trainables.pack_info import load_info

MAY_CHANGE = (
    "cluster.",
    "code",
    "data.cache",
    "data.path",
    "evaluation.",
    "published.",
    "resources.",
    "results",
    "search.max_concurrent",
    "search.max_failures",
    "search.max_hours",
    "search.max_total_epochs",
    "search.num_trials",
    "search.patience_trials",
    "search.target",
    "search.trial_timeout_s",
    "tracking.",
)
"""Keys that may change on resume: they do not affect a trial."""
DESCRIBES_SOURCE = ("source", "commit", "dirty")
"""Fields about the code that are not compared, only its hash is: a commit may change nothing but a README."""


MAX_NAMED = 1000
"""Files that are not images which study.yaml names, at most: it must stay small enough to be read again."""
MAX_NAME = 500
"""Most characters of each name."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """The images of a study."""

    fingerprint: str
    size: int = 32
    """Height and width of the images in pixels."""
    classes: Classes = CIFAKE
    """Names of the classes in the order of their labels, 0 and 1."""
    counts: dict[str, dict[str, int]]
    """Number of images by split and class."""
    resized: int = 0
    """Number of images that had another size."""
    skipped: list[str]
    """Files that are not images, the first MAX_NAMED of them."""
    num_skipped: int | None = None
    """Number of all files that are not images; None in a study of an earlier version, which names them all."""
    leaked: int
    duplicates: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Schema of study.yaml; `parse` checks its `config`."""

    id: Label | None = None
    """None in a study of an early version; resuming it sets one."""
    command: str = ""
    config: dict[str, Any]
    data: Data
    code: Code
    learnt: Learnt | None = None
    """The trials of earlier studies that the study learns from, if any."""
    evaluations: tuple[Evaluation, ...] = ()


def build_manifest(config: StudyConfig, packed: Path | None) -> dict[str, Any]:
    """Return the manifest of a study that starts now; that of a training function has no data."""
    data: dict[str, Any] = {"fingerprint": "none", "counts": {}, "skipped": [], "leaked": 0, "duplicates": 0}
    if packed is not None:
        info = dataclasses.asdict(load_info(packed))
        data = {field.name: info[field.name] for field in dataclasses.fields(Data) if field.name in info}
        named = [escape(name)[:MAX_NAME] for name in info["skipped"][:MAX_NAMED]]  # names need not be text
        data |= {"classes": list(info["classes"]), "skipped": named, "num_skipped": len(info["skipped"])}
    return {
        "id": secrets.token_hex(4),  # distinguishes it from studies of the same name in a shared account
        "command": describe_command(),
        "config": dump(config),
        "data": data,
        "code": describe_code(config.code),
        "evaluations": [],
    }


def compare_manifest(
    config: StudyConfig, packed: Path | None, *, accept_changes: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """Compare a study with the manifest that its folder has.

    Returns:
        The manifest from now on, and the accepted differences from the one before.

    Raises:
        InputError: If something differs and is not accepted, or study.yaml is damaged.
    """
    before, now = load_manifest(config.directory), build_manifest(config, packed)
    differences = list_differences(before, now)
    if any(each.startswith("search.learn_from:") for each in differences):
        raise InputError(f"{config.location} started with another search.learn_from: undo that, or use another --name")
    if differences and not accept_changes:
        cure = "undo that, use another --name, or pass --accept-changes"
        raise InputError(
            f"{config.location} was started with other settings, images or code ({'; '.join(differences)}): {cure}"
        )
    kept = {"id": before.get("id") or now["id"], "evaluations": before["evaluations"]}
    return before | ({"config": now["config"]} if not differences else now) | kept, differences


def load_manifest(directory: Path) -> dict[str, Any]:
    """Read a manifest, which a stranger may have made, after a check that no link in its folder leads out of it.

    Raises:
        InputError: If it is missing or damaged, or the folder contains a link.
    """
    check_folder(directory)
    path = directory / MANIFEST
    manifest = read_untrusted_yaml(path)
    manifest.setdefault("evaluations", [])
    if isinstance(manifest.get("config"), dict) and isinstance(search := manifest["config"].get("search"), dict):
        search.setdefault("repeat", True)  # as it was before there was this key
    check(Manifest, manifest, str(path))
    return manifest


def save_manifest(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Write study.yaml in one step."""
    write_yaml(directory / MANIFEST, manifest)


def list_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the differences that make a resumed study another one: settings except budgets and paths, images, code.

    Args:
        before: The stored manifest.
        now: The manifest that a study started now would have.
    """
    old, new = _flatten(before["config"]), _flatten(now["config"])
    keys = [key for key in sorted(set(old) | set(new)) if old.get(key) != new.get(key)]
    found = [f"{key}: {old.get(key)!r} became {new.get(key)!r}" for key in keys if not key.startswith(MAY_CHANGE)]
    if before["data"].get("fingerprint") != now["data"]["fingerprint"]:
        found.append(f"data.path: {now['config']['data']['path']} has other images")
    changed = list_changed(before["code"].get("own", {}), now["code"].get("own", {}))
    found += [f"your {name} has other content" for name in changed]
    old, new = (_flatten({**each["code"], "own": None}) for each in (before, now))
    keys = [key for key in sorted(set(old) | set(new)) if old.get(key) != new.get(key)]
    if "source" in keys:
        found.append(f"the code in search/ or trainables/ ({_name_code(old)} became {_name_code(new)})")
    return [*found, *(f"{key}: {old.get(key)} became {new.get(key)}" for key in keys if key not in DESCRIBES_SOURCE)]


def _name_code(code: Mapping[str, Any]) -> str:
    return f"commit {describe_commit(code)}, hash {str(code.get('source'))[:12]}"


def _flatten(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {path: value}
    flat: dict[str, Any] = {}
    for name, below in value.items():
        flat |= _flatten(below, f"{path}.{name}".lstrip("."))
    return flat
