"""The perceptual hash and the search for close hashes, against brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.datasets.audit import neighbours
from search.datasets.audit.neighbours import compare, find_pairs, hash_images
from trainables.errors import InputError

WORDS = st.integers(0, 2**64 - 1)
FLIPS = st.lists(st.integers(0, 63), max_size=12)


def find_by_brute_force(hashes, max_distance):
    distances = np.bitwise_count(hashes[:, None] ^ hashes)
    return np.argwhere(np.triu(distances <= max_distance, k=1)).tolist()


def turn_bits(word, bits):
    for bit in bits:
        word ^= 1 << bit
    return word


@settings(max_examples=40, deadline=None)
@given(WORDS, st.lists(FLIPS, max_size=8), st.lists(WORDS, max_size=20), st.integers(0, 11))
def test_pairs_are_those_that_brute_force_finds(word, flips, others, max_distance):
    hashes = np.array([word, *(turn_bits(word, bits) for bits in flips), *others], dtype=np.uint64)
    assert find_pairs(hashes, max_distance).tolist() == find_by_brute_force(hashes, max_distance)


@pytest.mark.parametrize("block", [3, neighbours.BLOCK])
def test_many_hashes_in_crowded_buckets_are_all_compared(block, monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK", block)
    generator = np.random.default_rng(0)
    # 64 keys per band: buckets are full, and some hashes are equal
    count = 100 if block == 3 else 1200
    hashes = generator.integers(64, size=(count, 4), dtype=np.uint16).view(np.uint64).ravel()
    expected = find_by_brute_force(hashes, 6)
    assert len(expected) > 40
    assert find_pairs(hashes, 6).tolist() == expected


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_and_one_hash_have_no_pairs(count):
    assert find_pairs(np.zeros(count, dtype=np.uint64), 8).shape == (0, 2)


def test_a_hundred_thousand_hashes_take_seconds_not_minutes():
    generator = np.random.default_rng(1)
    hashes = generator.integers(2**64, size=100_000, dtype=np.uint64)
    hashes[99_999] = hashes[7] ^ np.uint64(0b1011 << 40)
    assert find_pairs(hashes, 7).tolist() == [[7, 99_999]]


def test_the_hash_ignores_brightness_and_contrast_but_not_content():
    generator = np.random.default_rng(2)
    images = generator.integers(60, 160, size=(20, 32, 32, 3), dtype=np.uint8)
    plain = hash_images(images)
    assert np.bitwise_count(plain ^ hash_images(images + np.uint8(40))).max() <= 2
    assert np.bitwise_count(plain ^ hash_images((images * 1.5).astype(np.uint8))).max() <= 2
    assert np.bitwise_count(plain[1:] ^ plain[:-1]).min() > 12


def test_the_hash_is_the_cosine_transform_of_the_grey_image_above_its_median():
    from scipy.fft import dctn

    image = np.random.default_rng(3).integers(256, size=(32, 32, 3), dtype=np.uint8)
    low = dctn(image @ np.array([0.299, 0.587, 0.114]))[:8, :8]
    bits = (low > np.median(low)).ravel()
    own = np.unpackbits(hash_images(image[None]).view(np.uint8)).astype(bool)
    deal = np.arange(64).reshape(16, 4).T.ravel()
    assert (own == bits[deal]).all()


def test_flat_images_have_one_hash_and_a_hash_does_not_depend_on_the_batch(monkeypatch):
    flat = np.repeat(np.arange(256, dtype=np.uint8), 32 * 32 * 3).reshape(-1, 32, 32, 3)
    assert len(np.unique(hash_images(flat[1:]))) == 1
    images = np.random.default_rng(4).integers(256, size=(10, 32, 32, 3), dtype=np.uint8)
    whole = hash_images(images)
    monkeypatch.setattr(neighbours, "BATCH", 3)
    assert (hash_images(images) == whole).all()


def test_the_difference_is_the_mean_over_all_pixels_and_channels(monkeypatch):
    monkeypatch.setattr(neighbours, "BATCH", 2)
    images = np.zeros((3, 32, 32, 3), dtype=np.uint8)
    images[1] = 255
    images[2, :16, :, 0] = 30
    pairs = np.array([[0, 1], [0, 2], [1, 2]])
    assert compare(images, pairs)[0].tolist() == [255, 5, 250]
    assert [part.shape for part in compare(images, pairs[:0])] == [(0,), (0,)]


def test_the_correlation_is_numpys_of_each_channel_about_its_mean():
    images = np.random.default_rng(5).integers(256, size=(3, 32, 32, 3), dtype=np.uint8)
    images[2] = images[0] // 2 + images[1] // 2 + np.array([0, 20, 0], dtype=np.uint8) // 2
    centred = images - images.mean(axis=(1, 2), keepdims=True)
    expected = np.corrcoef(centred.reshape(3, -1))
    found = compare(images, np.array([[0, 1], [0, 2], [2, 2]]))[1]
    assert found == pytest.approx([expected[0, 1], expected[0, 2], 1], abs=1e-3)


def test_flat_images_correlate_with_each_other_alone():
    images = np.zeros((3, 32, 32, 3), dtype=np.uint8)
    images[1] = 9
    images[2, ::2] = 100
    assert compare(images, np.array([[0, 1], [0, 2]]))[1] == pytest.approx([1, 0], abs=0.03)


def test_too_many_pairs_are_refused(monkeypatch):
    monkeypatch.setattr(neighbours, "MAX_PAIRS", 100)
    assert len(find_pairs(np.zeros(14, dtype=np.uint64), 8)) == 91
    with pytest.raises(InputError, match="more than 100 pairs of different images have the same coarse structure"):
        find_pairs(np.zeros(15, dtype=np.uint64), 8)
