"""Prepares what trials read: the packed images and the initial weights."""

from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from search.config.schema import StudyConfig
from search.config.space import Choice, list_specs
from search.datasets.sample import build_sample
from trainables.config import build_train_config
from trainables.pack import pack
from trainables.record import divide_train


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
