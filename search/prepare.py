"""Everything that must be right before the first trial: data, initial weights, the study's folder."""

import copy
import dataclasses
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from search.cluster.store import Store, StoreError, check_url, is_url
from search.config import StudyConfig, dump, parse
from search.document import read_document, set_value, write_document
from search.provenance import describe_code, describe_command, replace_file
from search.sample import build_sample
from search.space import Choice, list_specs
from search.storage import holds_study
from trainables.config import build_train_config
from trainables.errors import DISK_FULL, InputError
from trainables.pack import pack
from trainables.record import divide_train, load_info

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


def prepare_data(config: StudyConfig, console: Console) -> Path:
    """Return the folder of the packed images, made with a progress bar if it was not there.

    Raises:
        InputError: If the data are not there, not as they must be, or too few to train and validate on.
    """
    cache = Path(config.data.cache).expanduser()
    source = build_sample(cache) if config.data.path == "sample" else Path(config.data.path).expanduser()
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task(f"packing {source.name}", total=None, visible=False)
        packed = pack(
            source,
            cache,
            on_bad_image=config.data.on_bad_image,
            progress=lambda done, total: progress.update(bar, completed=done, total=total, visible=True),
        )
    data = config.data
    divide_train(packed, val_fraction=data.val_fraction, seed=config.search.seed, max_images=data.max_train_images)
    return packed


def prepare_weights(config: StudyConfig) -> None:
    """Fetch every initial weight that the space names, once, instead of failing in each trial.

    Raises:
        InputError: If weights cannot be had; the message names the ways out.
    """
    for architecture in config.search.architectures:
        spec = list_specs(config.space, architecture).get("weights")
        for weights in spec.choice if isinstance(spec, Choice) else [spec] if spec else []:
            if isinstance(weights, str) and weights != "none":
                from trainables.models import fetch_weights  # with torch, which else no trial waits for

                fetch_weights(build_train_config(architecture, {"weights": weights}, epochs=1, seed=0).model)


def make_directory(config: StudyConfig, packed: Path) -> None:
    """Make the study's folder with its study.yaml in one step, unless it is there.

    Raises:
        InputError: If it cannot be written.
    """
    directory = config.directory
    if (directory / "study.yaml").exists():
        return
    if directory.exists():
        raise InputError(f"{directory} holds no study.yaml: it is no study's folder; use another --name")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".starting-") as scratch:
            staged = Path(scratch) / directory.name
            staged.mkdir()
            write_record(staged, {"id": _draw_id(), **_describe(config, packed)})
            staged.rename(directory)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise InputError(
            f"cannot write the results into {directory}: {(error.strerror or str(error)).lower()}"
        ) from None


def compare_record(
    config: StudyConfig, packed: Path, *, accept_changes: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """Compare a study with what its folder says it was started with.

    Returns:
        The record to write from now on, and what differs from the one before, if that is accepted.

    Raises:
        InputError: If something differs that is not accepted, or the folder's study.yaml is not one.
    """
    before, now = load_record(config.directory), _describe(config, packed)
    differences = list_differences(before, now)
    if differences and not accept_changes:
        cure = "undo that, use another --name, or pass --accept-changes"
        raise InputError(f"{config.place} was started otherwise ({'; '.join(differences)}): {cure}")
    kept = {"id": before.get("id") or _draw_id(), "evaluations": before["evaluations"]}
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
    partial = directory / "study.yaml.partial"
    write_document(partial, record)
    replace_file(partial, directory / "study.yaml")


def check_absent(config: StudyConfig, *, resume: bool) -> None:
    """Check that nothing would be written over.

    Raises:
        InputError: If the study is there and `resume` is not wished, its store cannot be used, or the database holds
            the record of a study of this name whose folder is not here.
    """
    stored = Store(config.url) if config.url else None
    if stored:
        stored.check()
    is_here = config.directory.exists() or (stored is not None and stored.read("study.yaml") is not None)
    if is_here and not resume:
        raise InputError(f"{config.place} exists: --resume goes on with it, --name NAME starts another study")
    if config.storage and not is_here and holds_study(config.storage, config.name):
        raise InputError(
            f"the database holds a study {config.name} already, but {config.place} is not there: "
            "bring that folder, or start another study with --name NAME"
        )


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


def _describe(config: StudyConfig, packed: Path) -> dict[str, Any]:
    info = load_info(packed)
    data = {
        "fingerprint": info.fingerprint,
        "counts": info.counts,
        "skipped": list(info.skipped),
        "leaked": info.leaked,
        "duplicates": info.duplicates,
    }
    code = describe_code()
    return {"command": describe_command(), "config": dump(config), "data": data, "code": code, "evaluations": []}


def _draw_id() -> str:
    """Return what tells a study from every other one of its name, in an account that several people share."""
    return secrets.token_hex(4)


def _flatten(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {path: value}
    flat: dict[str, Any] = {}
    for name, below in value.items():
        flat |= _flatten(below, f"{path}.{name}".lstrip("."))
    return flat
