"""study.yaml: what a study was started with, and what was evaluated; compared when it goes on."""

import copy
import dataclasses
import os
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search.config.load import check, dump, parse
from search.config.printable import escape
from search.config.schema import Label, StudyConfig
from search.config.untrusted import MANIFEST_BYTES, check_folder, check_storage
from search.config.urls import check_store_url, is_url
from search.config.yaml import read_untrusted_yaml, set_value, write_yaml
from search.record.choices import Evaluation
from search.record.object_store import Store, StoreError
from search.record.provenance import Code, describe_code, describe_command, describe_commit
from trainables.errors import InputError
from trainables.pack_info import load_info

MAY_CHANGE = (
    "cluster.",
    "data.cache",
    "data.path",
    "evaluation.",
    "resources.",
    "results",
    "search.max_concurrent",
    "search.max_failures",
    "search.max_hours",
    "search.max_total_epochs",
    "search.num_trials",
    "search.trial_timeout_s",
    "tracking.",
)
"""Keys that a resumed study may have otherwise than before: none of them changes what a trial is."""
DESCRIBES_SOURCE = ("source", "commit", "dirty")
"""What study.yaml says of the code; only its hash decides, for a commit may change a README alone."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """The images of a study."""

    fingerprint: str
    counts: dict[str, dict[str, int]]
    """By split and class."""
    skipped: list[str]
    """Files that are no images."""
    leaked: int
    duplicates: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StudyRecord:
    """What study.yaml says. `config` is checked by search.config.schema.parse."""

    id: Label | None = None
    """None in a study that was begun before there were any; resuming it gives it one."""
    command: str = ""
    config: dict[str, Any]
    data: Data
    code: Code
    evaluations: tuple[Evaluation, ...] = ()


def describe_study(config: StudyConfig, packed: Path) -> dict[str, Any]:
    """Return the study.yaml of a study that begins now."""
    info = load_info(packed)
    data = {
        "fingerprint": info.fingerprint,
        "counts": info.counts,
        "skipped": [escape(name) for name in info.skipped],  # a name may be no text
        "leaked": info.leaked,
        "duplicates": info.duplicates,
    }
    return {
        "id": secrets.token_hex(4),  # tells it from every other study of its name, in an account that several share
        "command": describe_command(),
        "config": dump(config),
        "data": data,
        "code": describe_code(),
        "evaluations": [],
    }


def compare_record(
    config: StudyConfig, packed: Path, *, accept_changes: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """Compare a study with what its folder says it was started with.

    Returns:
        The record to write from now on, and what differs from the one before, if that is accepted.

    Raises:
        InputError: If something differs that is not accepted, or the folder's study.yaml is not one.
    """
    before, now = load_record(config.directory), describe_study(config, packed)
    differences = list_differences(before, now)
    if differences and not accept_changes:
        cure = "undo that, use another --name, or pass --accept-changes"
        raise InputError(f"{config.location} was started otherwise ({'; '.join(differences)}): {cure}")
    kept = {"id": before.get("id") or now["id"], "evaluations": before["evaluations"]}
    return before | ({"config": now["config"]} if not differences else now) | kept, differences


def load_record(directory: Path) -> dict[str, Any]:
    """Read a study's study.yaml, which somebody else may have made, once nothing in its folder leads elsewhere.

    Raises:
        InputError: If it is missing or damaged, or a link is in the folder.
    """
    check_folder(directory)
    path = directory / "study.yaml"
    record = read_untrusted_yaml(path)
    record.setdefault("evaluations", [])
    check(StudyRecord, record, str(path))
    return record


def load_study(
    place: Path | str, settings: Sequence[str] = (), *, uses_journal: bool = True
) -> tuple[StudyConfig, dict[str, Any]]:
    """Read the study that lies in a folder, which may have been moved there, or in an object store.

    Args:
        place: The folder, or the URL of the study.
        settings: Overrides of its configuration, such as `evaluation.seeds=5`.
        uses_journal: Whether the caller opens the journal; where that is in a database, the user must name it.

    Returns:
        The configuration, overridden, and the record, as it lies there.

    Raises:
        InputError: If there is no study, its study.yaml is damaged, the folder has another name than the study, or
            its journal is in a database that the user did not name.
    """
    if is_url(str(place)):
        results, _, name = str(place).rstrip("/").rpartition("/")
        record = fetch_record(str(place))
    else:
        directory = Path(place)
        if not os.path.lexists(directory / "study.yaml"):
            raise InputError(f"there is no study in {directory}: expected the folder results/NAME of one")
        record = load_record(directory)
        results, name = str(directory.parent), directory.resolve().name
    config = _configure(record, settings, results)
    if config.name != name:
        raise InputError(f"{place} holds the study {config.name}: give its folder that name again")
    if uses_journal:
        check_storage(config.storage, settings)
    return config, record


def _configure(record: Mapping[str, Any], settings: Sequence[str], results: str) -> StudyConfig:
    """Return a recorded configuration with the user's overrides; the cache is the user's, whatever was recorded."""
    document = copy.deepcopy(record["config"])
    if isinstance(document.get("data"), dict):
        document["data"].pop("cache", None)
    for setting in settings:
        set_value(document, setting)
    return parse(document | {"results": results})


def fetch_record(url: str) -> dict[str, Any]:
    """Read the study.yaml of a study in an object store.

    Raises:
        InputError: If there is none, it is damaged, or the store cannot be asked.
    """
    check_store_url(url)
    try:
        content = Store(url).read("study.yaml", limit=MANIFEST_BYTES)
    except StoreError as error:
        raise InputError(str(error)) from None
    if content is None:
        raise InputError(f"there is no study in {url}: expected s3://BUCKET/PREFIX/NAME of one")
    with tempfile.TemporaryDirectory(prefix="cifake-search-") as scratch:
        (Path(scratch) / "study.yaml").write_bytes(content)
        return load_record(Path(scratch))


def write_record(directory: Path, record: Mapping[str, Any]) -> None:
    """Write a study's study.yaml in one step."""
    write_yaml(directory / "study.yaml", record)


def list_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what would make a resumed study another study: settings but budgets and places, images, code.

    Args:
        before: study.yaml as it lies there.
        now: study.yaml as it would be written.
    """
    old, new = _flatten(before["config"]), _flatten(now["config"])
    keys = [key for key in sorted(set(old) | set(new)) if old.get(key) != new.get(key)]
    found = [f"{key}: {old.get(key)!r} became {new.get(key)!r}" for key in keys if not key.startswith(MAY_CHANGE)]
    if before["data"].get("fingerprint") != now["data"]["fingerprint"]:
        found.append(f"data.path: {now['config']['data']['path']} holds other images")
    old, new = _flatten(before["code"]), _flatten(now["code"])
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
