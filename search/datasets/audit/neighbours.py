"""Finds similar images among hundreds of thousands: a perceptual hash, and all pairs of close hashes."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from trainables.errors import InputError

MAX_DISTANCE = 8
"""Largest number of bits, of 64, in which the perceptual hashes of two near-duplicates differ.

Measured on CIFAKE: after brightening by 12 levels or compressing again, 99 % of images differ in 2 bits at most; after
a shift by one pixel, three in four differ in 8 at most. At 10 bits there are five times as many pairs, mostly of
different objects.
"""
MAX_DIFFERENCE = 20.0
"""Largest mean difference of two near-duplicates' pixels, in levels of 255. A photo shifted by one pixel has 14."""
MIN_CORRELATION = 0.9
"""Smallest correlation of two near-duplicates' pixels.

Above it CIFAKE's pairs show the same picture; below it are small birds on grey skies, whose pixels differ little.
"""
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Weights of red, green and blue in a grey image. Source: ITU-R BT.601."""
FREQUENCIES = 8
"""Lowest frequencies kept in each direction; 8 x 8 give the 64 bits of a hash."""
BANDS = 4
"""Parts of a hash, 16 bits each, that are looked up separately."""
BATCH = 1024
"""Images, or pairs of images, in one computation."""
MAX_PAIRS = 1_000_000
"""Largest number of pairs with close hashes; each is compared pixel by pixel. 26,000 of CIFAKE's have 1,056."""
BLOCK = 1 << 22
"""Candidate pairs in one comparison; bounds the memory."""


def hash_images(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the 64-bit perceptual hash (pHash) of each image.

    Each bit says whether one of the 64 lowest frequencies of the grey image's cosine transform is above their median.
    Brightness and contrast do not change the hash, and compression hardly changes it. pHash scales to 32x32, CIFAKE's
    size; here larger images are not scaled down.

    Args:
        images: (N, size, size, 3).

    Returns:
        (N,).

    Source: Zauner 2010, Implementation and Benchmarking of Perceptual Image Hash Functions (the DCT based one),
    with the lowest frequencies included as in Krawetz 2011, Looks Like It (hackerfactor.com).
    """
    size = images.shape[1]
    basis = _build_basis(size)
    hashes = np.empty(len(images), dtype=np.uint64)
    for start in range(0, len(images), BATCH):
        grey = images[start : start + BATCH].reshape(-1, 3).astype(np.float32) @ LUMA
        # Rounded, because the only frequencies of a flat image are rounding errors.
        amplitudes = np.rint(grey.reshape(-1, size**2) @ basis)
        bits = amplitudes > np.median(amplitudes, axis=1, keepdims=True)
        hashes[start : start + BATCH] = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
    return hashes


def find_pairs(hashes: NDArray[np.uint64], max_distance: int) -> NDArray[np.int64]:
    """Find all pairs of hashes that differ in few bits.

    Two hashes that differ in at most d bits differ in at most d // 4 bits in one of their 4 bands. So it is enough to
    flip each choice of up to d // 4 bits in each band, and to look the result up among the bands of the other hashes.

    Args:
        hashes: (N,).
        max_distance: Most bits that may differ, in [0, 64].

    Returns:
        (K, 2) indices in ascending order; the smaller one of each pair comes first.

    Raises:
        InputError: If there are more than some MAX_PAIRS.

    Source: Norouzi, Punjani and Fleet 2012, Fast Search in Hamming Space with Multi-Index Hashing (arXiv:1307.2982),
    proposition 1.
    """
    width = 64 // BANDS
    turns = [turn for turn in range(1 << width) if turn.bit_count() <= max_distance // BANDS]
    codes = [np.empty(0, dtype=np.int64)]
    for band in range(BANDS):
        keys = (hashes >> np.uint64(width * band) & np.uint64((1 << width) - 1)).astype(np.int64)
        order = np.argsort(keys, kind="stable")
        keys, ordered = keys[order], hashes[order]
        bounds = np.searchsorted(keys, np.arange((1 << width) + 1))
        for turn in turns:
            wanted = keys ^ turn
            # Each pair is found from one side only: from the smaller key, or from the earlier of equal keys.
            first = bounds[wanted] if turn else np.arange(1, len(keys) + 1)
            counts = np.where(wanted >= keys, bounds[wanted + 1] - first, 0)
            for left, right in _list_candidates(first, counts):
                close = np.bitwise_count(ordered[left] ^ ordered[right]) <= max_distance
                ends = np.stack([order[left[close]], order[right[close]]])
                codes.append(ends.min(axis=0) * len(hashes) + ends.max(axis=0))
        codes = [np.unique(np.concatenate(codes))]
        if len(codes[0]) > MAX_PAIRS:
            raise InputError(
                f"more than {MAX_PAIRS:,} pairs of different images have the same coarse structure, as pictures of one "
                "colour have: remove those, because so many pairs cannot be compared"
            )
    return np.stack(np.divmod(codes[0], max(len(hashes), 1)), axis=1)


def find_alike(
    images: NDArray[np.uint8], rows: NDArray[np.int64], others: NDArray[np.uint8], other_rows: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the ascending indices of the images that look like one of the others.

    Args:
        images: (N, size, size, 3).
        rows: Indices of the images that are compared.
        others: (M, size, size, 3).
        other_rows: Indices of the others with which they are compared.
    """
    pairs = find_pairs(np.concatenate([hash_images(images)[rows], hash_images(others)[other_rows]]), MAX_DISTANCE)
    first, second = pairs[(pairs[:, 0] < len(rows)) & (pairs[:, 1] >= len(rows))].T
    pairs = np.stack([rows[first], other_rows[second - len(rows)]], axis=1)
    return np.unique(pairs[are_alike(*compare(images, pairs, others)), 0])


def are_alike(differences: NDArray[np.float64], correlations: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which pairs, whose hashes are close, look alike: (K,), given what `compare` returns."""
    return (differences < MAX_DIFFERENCE) & (correlations > MIN_CORRELATION)


def compare(
    images: NDArray[np.uint8], pairs: NDArray[np.int64], others: NDArray[np.uint8] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compare the pixels of each pair.

    Args:
        images: (N, size, size, 3).
        pairs: (K, 2) indices of images.
        others: (M, size, size, 3), to which the second index refers; None for `images`.

    Returns:
        Mean absolute differences (K,) in [0, 255], and correlations (K,) in [-1, 1] of each channel's deviations from
        its mean. A common noise of variance 1 is added, so that two flat images correlate.
    """
    differences, correlations = np.empty(len(pairs)), np.empty(len(pairs))
    for start in range(0, len(pairs), BATCH):
        first, second = pairs[start : start + BATCH].T
        both = np.stack([images[first], (images if others is None else others)[second]]).astype(np.float32)
        differences[start : start + BATCH] = np.abs(both[0] - both[1]).mean(axis=(1, 2, 3))
        both -= both.mean(axis=(2, 3), keepdims=True)
        (left, right), shared = (both**2).mean(axis=(2, 3, 4)), (both[0] * both[1]).mean(axis=(1, 2, 3))
        correlations[start : start + BATCH] = (shared + 1) / np.sqrt((left + 1) * (right + 1))
    return differences, correlations


def _build_basis(size: int) -> NDArray[np.float32]:
    """Return the cosines (size**2, 64) of the lowest frequencies, ordered so that each band has high and low ones."""
    places = (2 * np.arange(size) + 1) / (2 * size)
    cosines = np.cos(np.pi * np.arange(FREQUENCIES)[:, None] * places)
    deal = np.arange(FREQUENCIES**2).reshape(-1, BANDS).T.ravel()
    basis: NDArray[np.float32] = np.kron(cosines, cosines)[deal].T.astype(np.float32)
    return basis


def _list_candidates(
    first: NDArray[np.int64], counts: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the counts[i] pairs (i, first[i]), (i, first[i] + 1) ... of each i, in blocks."""
    active = np.flatnonzero(counts)
    first, counts = first[active], counts[active]
    ends = np.cumsum(counts)
    cuts = np.flatnonzero(np.diff(ends // BLOCK)) + 1
    for part in np.split(np.arange(len(active)), cuts):
        own = counts[part]
        steps = np.arange(own.sum()) - np.repeat(np.cumsum(own) - own, own)
        yield np.repeat(active[part], own), np.repeat(first[part], own) + steps
