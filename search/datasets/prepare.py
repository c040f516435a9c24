"""Everything that must be right before the first trial: data, initial weights, the study's folder."""

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
    """Return the folder of the packed images, made with a progress bar if it was not there.

    Raises:
        InputError: If the data are not there, not as they must be, or too few to train and validate on.
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
    """Fetch every initial weight that the space names, once, instead of failing in each trial.

    Raises:
        InputError: If weights cannot be had; the message names the ways out.
    """
    for architecture in config.search.architectures:
        spec = list_specs(config.space, architecture).get("weights")
        for weights in spec.choice if isinstance(spec, Choice) else [spec] if spec else []:
            if isinstance(weights, str) and weights != "none":
                from trainables.models.model import fetch_weights  # with torch, which else no trial waits for

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
        raise InputError(f"{config.location} exists: --resume goes on with it, --name NAME starts another study")
    if config.storage and not is_here and holds_study(config.storage, config.name):
        raise InputError(
            f"the database holds a study {config.name} already, but {config.location} is not there: "
            "bring that folder, or start another study with --name NAME"
        )
