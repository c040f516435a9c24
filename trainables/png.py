"""Verifies the chunks of a PNG: Pillow ignores most of their checksums, and reads any number of them."""

import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS = 100_000
"""Largest number of chunks: Pillow keeps some of them in memory, and real files have some thousands."""


def is_sound(data: bytes) -> bool:
    """Return whether all chunks up to the last one are there and undamaged, and at most MAX_CHUNKS."""
    start = len(SIGNATURE)
    for _ in range(MAX_CHUNKS):
        end = start + 8 + int.from_bytes(data[start : start + 4])
        if len(data) < end + 4 or zlib.crc32(data[start + 4 : end]) != int.from_bytes(data[end : end + 4]):
            return False
        if data[start + 4 : start + 8] == b"IEND":
            return True
        start = end + 4
    return False
