"""Findings of an audit: counts, bad files, copies, near-duplicates, colour."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from search.datasets.audit.images import PARTS, Images
from search.datasets.audit.neighbours import compare, find_pairs, hash_images
from trainables.pack_info import CLASSES

RELATIONS = (*PARTS, *(f"train/{label} and test/{label}" for label in CLASSES), "FAKE and REAL")
"""Parts, or pairs of parts, in which two images can be the same or look alike."""
MAX_DISTANCE = 8
"""Most bits of 64 in which the perceptual hashes of two near-duplicates differ.

Measured on CIFAKE: after brightening by 12 levels or compressing again, 99 % of images differ in 2 bits at most; after
a shift by one pixel, three in four differ in 8 at most. At 10 bits there are five times as many pairs, mostly of
different objects.
"""
MAX_DIFFERENCE = 20.0
"""Largest mean difference of two near-duplicates' pixels, in levels of 255. A photo shifted by one pixel has 14."""
MIN_CORRELATION = 0.9
"""Smallest correlation of two near-duplicates' pixels.

Above it CIFAKE's pairs show the same picture; below are pairs of small birds on grey skies, whose pixels differ little.
"""
GREY_DEVIATION = 1.0
"""An image is near-grey if its channels deviate by less than this from their pixel's mean, on average.

In levels of 255. Of some forty definitions it is the simplest that agrees with the known shares of near-grey images in
CIFAKE's training split, about 12.7 % of FAKE and 1.5 % of REAL: it finds 12.7 % and 1.6 %.
"""
BATCH = 4096


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One class of one split."""

    name: str
    images: int
    colour: tuple[float, float, float] | None
    """Mean red, green and blue, in [0, 255]; None if there are no images."""
    near_grey: float | None
    """Share of near-grey images, in [0, 1]; see GREY_DEVIATION."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Repeats:
    """Numbers of repeated images in one of RELATIONS.

    Within a part, every copy but the first counts; between train and test, the images of train that are also in test;
    between FAKE and REAL, the images of FAKE that are also in REAL. Near-duplicates are counted in pairs.
    """

    relation: str
    same_file: int
    """Images in equal files."""
    same_pixels: int
    """Images with equal pixels in different files."""
    near: int
    """Pairs of different images that look alike; of images with equal pixels only the first is compared."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NearPair:
    """Two images that look alike."""

    relation: str
    """One of RELATIONS."""
    names: tuple[str, str]
    distance: int
    """Bits of 64 in which their perceptual hashes differ."""
    difference: float
    """Mean absolute difference of their pixels, in [0, 255]."""
    correlation: float
    """Correlation of their pixels, in [-1, 1]."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Findings in a data set."""

    source: str
    """Folder or zip."""
    parts: list[Part]
    """One for each of PARTS."""
    bad: list[str]
    """Files that are not images."""
    resized: list[str]
    """Images that are not 32x32; they are compared after scaling."""
    repeats: list[Repeats]
    """One for each of RELATIONS."""
    copies: list[list[str]]
    """Groups of images with equal pixels."""
    near: list[NearPair]
    """Near-duplicates, most similar first."""


def audit(images: Images) -> Audit:
    """Count and compare all images."""
    near = find_near(images)
    counts = {relation: sum(pair.relation == relation for pair in near) for relation in RELATIONS}
    by_file = _count_repeats(images.parts, images.first_file)
    by_pixels = _count_repeats(images.parts, images.first_pixels)
    return Audit(
        source=str(images.source),
        parts=_describe_parts(images),
        bad=images.bad,
        resized=images.resized,
        repeats=[
            Repeats(relation=relation, same_file=files, same_pixels=pixels - files, near=counts[relation])
            for relation, files, pixels in zip(RELATIONS, by_file, by_pixels, strict=True)
        ],
        copies=_group_copies(images),
        near=near,
    )


def find_near(images: Images) -> list[NearPair]:
    """Return the pairs of different images that look alike, most similar first."""
    firsts = np.flatnonzero(images.first_pixels == np.arange(len(images.names)))
    hashes = hash_images(images.pixels)
    pairs = firsts[find_pairs(hashes[firsts], MAX_DISTANCE)]
    differences, correlations = compare(images.pixels, pairs)
    alike = np.flatnonzero((differences < MAX_DIFFERENCE) & (correlations > MIN_CORRELATION))
    ranked = alike[np.argsort(differences[alike], kind="stable")]
    return [
        NearPair(
            relation=_name_relation(int(images.parts[left]), int(images.parts[right])),
            names=(images.names[left], images.names[right]),
            distance=int(np.bitwise_count(hashes[left] ^ hashes[right])),
            difference=float(differences[row]),
            correlation=float(correlations[row]),
        )
        for row, (left, right) in zip(ranked, pairs[ranked], strict=True)
    ]


def _count_repeats(parts: NDArray[np.int64], first: NDArray[np.int64]) -> list[int]:
    """Count repeated images for each of RELATIONS, given the index of the first equal image for each image."""
    members = [first[parts == part] for part in range(len(PARTS))]
    inside = [len(own) - len(np.unique(own)) for own in members]
    across = [int(np.isin(members[label], members[label + 2]).sum()) for label in range(len(CLASSES))]
    fake, real = (np.concatenate([members[label], members[label + 2]]) for label in range(len(CLASSES)))
    return [*inside, *across, int(np.isin(fake, real).sum())]


def _name_relation(left: int, right: int) -> str:
    """Return the relation of a pair, given the parts of its images in ascending order."""
    if left == right:
        return RELATIONS[left]
    return RELATIONS[len(PARTS) + left] if left % 2 == right % 2 else RELATIONS[-1]


def _group_copies(images: Images) -> list[list[str]]:
    groups: dict[int, list[str]] = {}
    for row in np.flatnonzero(np.bincount(images.first_pixels)[images.first_pixels] > 1):
        groups.setdefault(int(images.first_pixels[row]), []).append(images.names[row])
    return list(groups.values())


def _describe_parts(images: Images) -> list[Part]:
    colours = np.empty((len(images.names), 3))
    grey = np.empty(len(images.names), dtype=bool)
    for start in range(0, len(colours), BATCH):
        pixels = images.pixels[start : start + BATCH]
        colours[start : start + BATCH] = pixels.mean(axis=(1, 2))
        deviations = np.abs(pixels - pixels.mean(axis=3, keepdims=True, dtype=np.float32))
        grey[start : start + BATCH] = deviations.mean(axis=(1, 2, 3)) < GREY_DEVIATION
    described = []
    for number, name in enumerate(PARTS):
        own = images.parts == number
        count = int(own.sum())
        red, green, blue = colours[own].mean(axis=0).tolist() if count else (0.0, 0.0, 0.0)
        described.append(
            Part(
                name=name,
                images=count,
                colour=(red, green, blue) if count else None,
                near_grey=float(grey[own].mean()) if count else None,
            )
        )
    return described
