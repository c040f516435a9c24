"""Findings of an audit: counts, bad files, copies, near-duplicates, colour."""

import dataclasses
import itertools

import numpy as np
from numpy.typing import NDArray

from search.datasets.audit.images import Images
from search.datasets.audit.neighbours import MAX_DISTANCE, are_alike, compare, find_pairs, hash_images
from trainables.layout import Layout

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
    """Numbers of repeated images in one relation of `list_relations`.

    Within a part, every copy except the first counts. Between two splits or the two classes, the images of the first
    that are also in the second count. Near-duplicates are counted in pairs.
    """

    relation: str
    same_file: int
    """Number of images in equal files."""
    same_pixels: int
    """Number of images with equal pixels in different files."""
    near: int
    """Number of pairs of different images that look alike; of images with equal pixels only the first is compared."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NearPair:
    """Two images that look alike."""

    relation: str
    names: tuple[str, str]
    distance: int
    """Number of bits, of 64, in which their perceptual hashes differ."""
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
    """One for each part of the layout."""
    bad: list[str]
    """Files that are not images."""
    resized: list[str]
    """Images of another size, which are compared after scaling."""
    repeats: list[Repeats]
    """One for each relation."""
    copies: list[list[str]]
    """Groups of images with equal pixels."""
    near: list[NearPair]
    """Near-duplicates, most similar first."""


def audit(images: Images) -> Audit:
    """Count and compare all images."""
    near = find_near(images)
    relations = list_relations(images.layout)
    counts = {relation: sum(pair.relation == relation for pair in near) for relation in relations}
    by_file = _count_repeats(images, images.first_file)
    by_pixels = _count_repeats(images, images.first_pixels)
    return Audit(
        source=str(images.source),
        parts=_describe_parts(images),
        bad=images.bad,
        resized=images.resized,
        repeats=[
            Repeats(relation=relation, same_file=files, same_pixels=pixels - files, near=counts[relation])
            for relation, files, pixels in zip(relations, by_file, by_pixels, strict=True)
        ],
        copies=_group_copies(images),
        near=near,
    )


def list_relations(layout: Layout) -> list[str]:
    """Return the parts, and the pairs of splits or classes, in which two images can be equal or look alike."""
    pairs = itertools.combinations(layout.splits, 2)
    across = [f"{one}/{label} and {other}/{label}" for one, other in pairs for label in layout.classes]
    return [*layout.list_parts(), *across, " and ".join(layout.classes)]


def find_near(images: Images) -> list[NearPair]:
    """Return the pairs of different images that look alike, most similar first."""
    firsts = np.flatnonzero(images.first_pixels == np.arange(len(images.names)))
    hashes = hash_images(images.pixels)
    pairs = firsts[find_pairs(hashes[firsts], MAX_DISTANCE)]
    differences, correlations = compare(images.pixels, pairs)
    alike = np.flatnonzero(are_alike(differences, correlations))
    ranked = alike[np.argsort(differences[alike], kind="stable")]
    return [
        NearPair(
            relation=_name_relation(images.layout, int(images.parts[left]), int(images.parts[right])),
            names=(images.names[left], images.names[right]),
            distance=int(np.bitwise_count(hashes[left] ^ hashes[right])),
            difference=float(differences[row]),
            correlation=float(correlations[row]),
        )
        for row, (left, right) in zip(ranked, pairs[ranked], strict=True)
    ]


def _count_repeats(images: Images, first: NDArray[np.int64]) -> list[int]:
    """Count repeated images for each relation, given the index of the first equal image for each image."""
    members = [first[images.parts == part] for part in range(len(images.layout.list_parts()))]
    inside = [len(own) - len(np.unique(own)) for own in members]
    pairs = itertools.combinations(range(0, len(members), 2), 2)
    across = [
        int(np.isin(members[one + label], members[other + label]).sum()) for one, other in pairs for label in (0, 1)
    ]
    negative, positive = (np.concatenate(members[label::2]) for label in (0, 1))
    return [*inside, *across, int(np.isin(negative, positive).sum())]


def _name_relation(layout: Layout, left: int, right: int) -> str:
    """Return the relation of a pair, given the parts of its images in ascending order."""
    parts = layout.list_parts()
    if left == right:
        return parts[left]
    return f"{parts[left]} and {parts[right]}" if left % 2 == right % 2 else " and ".join(layout.classes)


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
    for number, name in enumerate(images.layout.list_parts()):
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
