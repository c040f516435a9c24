"""study.yaml: what a study was started with, and what was evaluated; compared when it goes on."""

import copy
import dataclasses
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search.cluster.store import Store, StoreError, check_url, is_url
from search.config import StudyConfig, dump, parse
from search.document import format_document, read_document, set_value
from search.provenance import describe_code, describe_command, write_file
from trainables.errors import InputError
from trainables.record import load_info

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


def describe_study(config: StudyConfig, packed: Path) -> dict[str, Any]:
    """Return the study.yaml of a study that begins now."""
    info = load_info(packed)
    data = {
        "fingerprint": info.fingerprint,
        "counts": info.counts,
        "skipped": list(info.skipped),
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
        raise InputError(f"{config.place} was started otherwise ({'; '.join(differences)}): {cure}")
    kept = {"id": before.get("id") or now["id"], "evaluations": before["evaluations"]}
    return before | ({"config": now["config"]} if not differences else now) | kept, differences


def load_record(directory: Path) -> dict[str, Any]:
    """Read a study's study.yaml.

    Raises:
        InputError: If it is missing or damaged.
    """
    record = read_document(directory / "study.yaml")
    if not all(isinstance(record.get(key), dict) for key in ("config", "data", "code")):
        raise InputError(f"{directory / 'study.yaml'} is damaged: it needs config, data and code; use another --name")
    evaluations = record.setdefault("evaluations", [])
    if not isinstance(evaluations, list) or not all(isinstance(entry, dict) for entry in evaluations):
        raise InputError(f"{directory / 'study.yaml'} is damaged: evaluations must be a list; use another --name")
    return record


def load_study(place: Path | str, settings: Sequence[str] = ()) -> tuple[StudyConfig, dict[str, Any]]:
    """Read the study that lies in a folder, which may have been moved there, or in an object store.

    Args:
        place: The folder, or the URL of the study.
        settings: Overrides of its configuration, such as `evaluation.seeds=5`.

    Returns:
        The configuration, overridden, and the record, as it lies there.

    Raises:
        InputError: If there is no study, its study.yaml is damaged, or the folder has another name than the study.
    """
    if is_url(str(place)):
        return _load_stored(str(place), settings)
    directory = Path(place)
    if not (directory / "study.yaml").exists():
        raise InputError(f"there is no study in {directory}: expected the folder results/NAME of one")
    record = load_record(directory)
    document = copy.deepcopy(record["config"])
    for setting in settings:
        set_value(document, setting)
    config = parse(document | {"results": str(directory.resolve().parent)})
    if directory.resolve().name != config.name:
        raise InputError(f"{directory} holds the study {config.name}: give its folder that name again")
    return dataclasses.replace(config, results=str(directory.parent)), record


def _load_stored(url: str, settings: Sequence[str]) -> tuple[StudyConfig, dict[str, Any]]:
    """Read the study of a URL; what lies on this machine of it is not touched."""
    results, _, name = url.rstrip("/").rpartition("/")
    record = fetch_record(url)
    document = copy.deepcopy(record["config"])
    for setting in settings:
        set_value(document, setting)
    if document["name"] != name:
        raise InputError(f"{url} holds the study {document['name']}: give its folder that name again")
    return parse(document | {"results": results}), record


def fetch_record(url: str) -> dict[str, Any]:
    """Read the study.yaml of a study in an object store.

    Raises:
        InputError: If there is none, it is damaged, or the store cannot be asked.
    """
    check_url(url)
    try:
        content = Store(url).read("study.yaml")
    except StoreError as error:
        raise InputError(str(error)) from None
    if content is None:
        raise InputError(f"there is no study in {url}: expected s3://BUCKET/PREFIX/NAME of one")
    with tempfile.TemporaryDirectory(prefix="cifake-search-") as scratch:
        (Path(scratch) / "study.yaml").write_bytes(content)
        return load_record(Path(scratch))


def write_record(directory: Path, record: Mapping[str, Any]) -> None:
    """Write a study's study.yaml in one step."""
    write_file(directory / "study.yaml", format_document(record).encode())


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
    changed = " with changes" if code.get("dirty") else ""
    return f"commit {str(code.get('commit'))[:12]}{changed}, hash {str(code.get('source'))[:12]}"


def _flatten(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {path: value}
    flat: dict[str, Any] = {}
    for name, below in value.items():
        flat |= _flatten(below, f"{path}.{name}".lstrip("."))
    return flat
