"""Prepares the files that trials read: the packed images and the initial weights."""

import dataclasses
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from search.config.code import list_own
from search.config.conditions import drop_inactive, list_conditions
from search.config.data import DataConfig
from search.config.load import dump
from search.config.printable import escape
from search.config.schema import StudyConfig
from search.config.space import Choice, list_specs, pick
from search.config.untrusted import MAX_TEST_IMAGES
from trainables.config import build_train_config
from trainables.errors import InputError
from trainables.layout import Settings
from trainables.names import is_own
from trainables.pack import pack
from trainables.pack_info import describe_images, load_info
from trainables.partition import draw_train, split_train


def prepare_data(config: StudyConfig, console: Console) -> Path:
    """Return the folder of the packed images; pack them first, with a progress bar, if the cache does not have them.

    Raises:
        InputError: If the data are missing, have another layout, are too few to train and validate on, or have too
            many test images.
    """
    data = config.data
    source = Path(data.path).expanduser()
    if data.path == "sample":
        from search.datasets.sample import build_sample  # with Pillow

        source = build_sample(Path(data.cache).expanduser())
    settings = Settings(size=data.size, positive=data.positive, test_fraction=data.test_fraction)
    packed = show_packing(source, settings, data, console)
    info = load_info(packed)
    if (num_tested := sum(info.counts["test"].values())) > MAX_TEST_IMAGES:
        raise InputError(f"{source} has {num_tested:,} test images, more than {MAX_TEST_IMAGES:,}: remove some")
    for note in describe_images(dataclasses.asdict(info), data.test_fraction):
        console.print(escape(note))
    split_train(packed, val_fraction=data.val_fraction, seed=config.search.seed, max_images=data.max_train_images)
    if isinstance(retrained := config.evaluation.max_train_images, int):
        usable = len(draw_train(packed, seed=config.search.seed, max_images=None))
        if retrained > usable:
            raise InputError(
                f"evaluation.max_train_images = {retrained:,}: train has {usable:,} usable images; `all` takes all"
            )
    return packed


def show_packing(source: Path, settings: Settings, data: DataConfig, console: Console) -> Path:
    """Return the folder of packed images; pack them first, with a progress bar, if the cache does not have them."""
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("packing the images", total=None, visible=False)
        return pack(
            source,
            Path(data.cache).expanduser(),
            settings,
            on_bad_image=data.on_bad_image,
            progress=lambda done, total: progress.update(bar, completed=done, total=total, visible=True),
        )


def prepare_weights(config: StudyConfig) -> None:
    """Fetch all initial weights that the space names, and try each architecture and optimizer of the user.

    So a fault stops the search before its first trial, and does not fail each trial.

    Raises:
        InputError: If weights cannot be fetched, found or loaded, a model cannot be trained, saved and restored, or an
            optimizer cannot train.
    """
    if config.trainable is not None:
        return
    for optimizer in {name for where, name in list_own(dump(config)) if where.endswith(".optimizer")}:
        from trainables.optim import check_optimizer  # imports torch

        check_optimizer(optimizer)
    size = config.data.size
    for architecture in config.search.architectures:
        specs = list_specs(config.space, architecture)
        spec = specs.get("weights")
        for weights in spec.choice if isinstance(spec, Choice) else [spec]:
            if isinstance(weights, str) and weights != "none":
                from trainables.models.model import build_model  # imports torch, which others do not need here

                built = build_train_config(architecture, {"weights": weights}, epochs=1, seed=0, size=size)
                build_model(built.model, size=size)
        if is_own(architecture):
            import safetensors.torch  # imports torch

            from trainables.models.model import check_model

            point = drop_inactive(list_conditions(specs), {name: pick(spec) for name, spec in specs.items()})
            training = build_train_config(architecture, point, epochs=1, seed=0, size=size)
            check_model(architecture, training, safetensors.torch.save)
