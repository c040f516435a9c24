"""Prepares a study before its first trial: data, initial weights, the study's folder."""

import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from search.config.schema import StudyConfig
from search.config.space import Choice, list_specs
from search.datasets.sample import build_sample
from search.record.manifest import describe_study, write_record
from search.record.object_store import Store
from search.record.storage import holds_study
from trainables.config import build_train_config
from trainables.durable import make_folder, sync
from trainables.errors import DISK_FULL, InputError
from trainables.pack import pack
from trainables.pack_info import split_train


def prepare_data(config: StudyConfig, console: Console) -> Path:
    """Return the folder of the packed images; pack them first, with a progress bar, if the cache does not have them.

    Raises:
        InputError: If the data are missing, have another layout, or are too few to train and validate on.
    """
    cache = Path(config.data.cache).expanduser()
    source = build_sample(cache) if config.data.path == "sample" else Path(config.data.path).expanduser()
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("packing the images", total=None, visible=False)
        packed = pack(
            source,
            cache,
            on_bad_image=config.data.on_bad_image,
            progress=lambda done, total: progress.update(bar, completed=done, total=total, visible=True),
        )
    data = config.data
    split_train(packed, val_fraction=data.val_fraction, seed=config.search.seed, max_images=data.max_train_images)
    return packed


def prepare_weights(config: StudyConfig) -> None:
    """Fetch all initial weights that the space names, so that missing ones stop the search and not each trial.

    Raises:
        InputError: If they cannot be fetched, found or loaded; the message says what to do.
    """
    for architecture in config.search.architectures:
        spec = list_specs(config.space, architecture).get("weights")
        for weights in spec.choice if isinstance(spec, Choice) else [spec] if spec else []:
            if isinstance(weights, str) and weights != "none":
                from trainables.models.model import (
                    fetch_weights,
                )  # imports torch, which a search without initial weights does not need here

                fetch_weights(build_train_config(architecture, {"weights": weights}, epochs=1, seed=0).model)


def make_directory(config: StudyConfig, packed: Path) -> None:
    """Create the study's folder with its study.yaml in one step, unless study.yaml exists.

    Raises:
        InputError: If it cannot be written.
    """
    directory = config.directory
    if (directory / "study.yaml").exists():
        return
    if directory.exists():
        raise InputError(f"{directory} has no study.yaml, so it is not a study's folder: use another --name")
    try:
        make_folder(directory.parent)
        with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".starting-") as scratch:
            staged = Path(scratch) / directory.name
            staged.mkdir()
            write_record(staged, describe_study(config, packed))
            staged.rename(directory)
            sync(directory.parent)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise InputError(
            f"cannot write the results into {directory}: {(error.strerror or str(error)).lower()}"
        ) from None


def check_absent(config: StudyConfig, *, resume: bool) -> None:
    """Check that a new study does not overwrite an existing one.

    Raises:
        InputError: If the study exists and `resume` is false, if its store cannot be used, or if the database has a
            journal of this name but the study's folder is missing.
    """
    stored = Store(config.url) if config.url else None
    if stored:
        stored.check()
    is_here = config.directory.exists() or (stored is not None and stored.read("study.yaml") is not None)
    if is_here and not resume:
        raise InputError(f"{config.location} exists: --resume continues it, --name NAME starts another study")
    if config.storage and not is_here and holds_study(config.storage, config.name):
        raise InputError(
            f"the database already has a study {config.name}, but {config.location} is missing: "
            "restore that folder, or start another study with --name NAME"
        )
