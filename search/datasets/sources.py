"""Further sources of the two classes: packed like the data, and compared with the images of train and of test.

For test images only the hashes of their pixels are compared, which packing wrote; no test image is read.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from search.cluster.launch import Deliver
from search.config.printable import escape
from search.config.schema import StudyConfig
from search.config.untrusted import MAX_TEST_IMAGES
from search.datasets.audit.neighbours import find_alike
from search.datasets.prepare import show_packing
from search.record.choices import Source
from trainables.errors import InputError
from trainables.layout import SOURCE, Settings
from trainables.pack_info import load_info, locate, read_hashes, read_pack_json
from trainables.partition import draw_train
from trainables.source import open_source
from trainables.splits import Split, open_elsewhere


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PackedSource:
    """A further source that is ready to be scored."""

    source: Source
    """Its record in study.yaml."""
    pack: Path
    """Folder of its packed images."""
    left_out: tuple[int, ...]
    """Indices of the images that are not scored because a training image equals them or looks like them; ascending."""


def prepare_sources(config: StudyConfig, packed: Path, console: Console) -> list[PackedSource]:
    """Pack the further sources of a study, and find in each the images that the models know from training.

    Args:
        config: The study.
        packed: Folder of its packed images.
        console: Shows the progress.

    Raises:
        InputError: If a source is missing, has another layout or other classes, shares an image with the test split, or
            has nothing left to score.
    """
    return [
        _prepare(name, Path(path).expanduser(), config, packed, console)
        for name, path in (config.evaluation.also or {}).items()
    ]


def open_packed(deliver: Deliver, left_out: Sequence[int]) -> list[Split]:
    """Open the images of a source that are scored, on a worker, given what brings its pack to that node."""
    return [open_elsewhere(Path(str(deliver())), left_out)]


def _prepare(name: str, path: Path, config: StudyConfig, packed: Path, console: Console) -> PackedSource:
    classes = load_info(packed).classes
    settings = Settings(size=config.data.size, classes=classes)
    try:
        own = show_packing(path, settings, config.data, console)
        info = load_info(own)
        if (num := sum(info.counts[SOURCE].values())) > MAX_TEST_IMAGES:
            raise InputError(f"{path} has {num:,} images, more than {MAX_TEST_IMAGES:,}: remove some")
        _check_apart(path, own, packed, settings)
    except InputError as error:
        raise InputError(f"evaluation.also.{name}: {error}") from None
    copies, alike = _find_known(own, packed)
    left_out = np.union1d(copies, alike)
    labels = np.delete(np.fromfile(locate(own, f"{SOURCE}.labels", read_pack_json(own)), dtype=np.uint8), left_out)
    if not len(labels):
        raise InputError(f"evaluation.also.{name}: the training images contain all images of {path}: choose others")
    source = Source(
        name=name,
        path=escape(path),
        fingerprint=hashlib.sha256(f"{info.fingerprint} {left_out.tolist()}".encode()).hexdigest(),
        counts=(int((labels == 0).sum()), int((labels == 1).sum())),
        copies=len(copies),
        alike=len(alike),
    )
    return PackedSource(source=source, pack=own, left_out=tuple(left_out.tolist()))


def _check_apart(path: Path, own: Path, packed: Path, settings: Settings) -> None:
    """Check that no image of a source is also in the test split."""
    shared = np.flatnonzero(np.isin(read_hashes(own, SOURCE), read_hashes(packed, "test")))
    if not len(shared):
        return
    with open_source(path) as opened:
        files = settings.read_layout(opened).files
    skipped = set(load_info(own).skipped)
    names = sorted((files.keys() - skipped), key=files.__getitem__)
    what = f"{len(shared):,} of its images with the test split, the first is {escape(names[shared[0]])}"
    raise InputError(f"{path} shares {what}: remove them")


@functools.lru_cache(maxsize=32)
def _find_known(own: Path, packed: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices of a source's images that are training images, and of those that only look like one."""
    usable = draw_train(packed, seed=0, max_images=None)
    hashes = read_hashes(own, SOURCE)
    copies = np.isin(hashes, read_hashes(packed, "train")[usable])
    firsts = np.unique(hashes, return_index=True)[1]  # otherwise equal images would form very many pairs
    found = find_alike(_map_images(own, SOURCE), firsts, _map_images(packed, "train"), usable)
    return np.flatnonzero(copies), np.flatnonzero(np.isin(hashes, hashes[found]) & ~copies)


def _map_images(pack: Path, split: str) -> NDArray[np.uint8]:
    """Map the images (N, size, size, 3) of a split into memory."""
    info = read_pack_json(pack)
    flat = np.memmap(locate(pack, f"{split}.images", info), dtype=np.uint8, mode="r")
    return flat.reshape(-1, info["size"], info["size"], 3)
