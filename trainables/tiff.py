"""The tiles of a TIFF file, measured before libtiff decodes them."""

import math
from typing import Literal

TILE_SIDES = (322, 323)
"""Tags for width and height of a tile."""
TILE_BYTES = {3: 2, 4: 4}
"""Type of these tags -> bytes of its number: SHORT and LONG."""


def measure_tile(data: bytes, start: int) -> int:
    """Return the pixels of a TIFF's tile, which libtiff decodes whole even if the image is smaller; 0 without tiles.

    The entries are read as libtiff reads them: Pillow skips those of types that it does not know.

    Args:
        data: The file.
        start: Offset of the image's directory of tags.

    Raises:
        ValueError: If a side of the tile is not a plain number.

    Source: Adobe 1992, TIFF 6.0, section 2; the BigTIFF proposal of libtiff.
    """
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
    head, value, length = (8, 12, 20) if 43 in data[2:4] else (2, 8, 12)  # BigTIFF, or TIFF
    start += head
    count = int.from_bytes(data[start - head : start], order)
    sides = dict.fromkeys(TILE_SIDES, 0)
    for place in range(start, min(start + count * length, len(data)), length):
        tag, kind = (int.from_bytes(data[at : at + 2], order) for at in (place, place + 2))
        if tag in sides:
            if kind not in TILE_BYTES:
                raise ValueError(f"the side of a tile has the type {kind}")
            found = data[place + value : place + value + TILE_BYTES[kind]]
            sides[tag] = max(sides[tag], int.from_bytes(found, order))
    return math.prod(sides.values())
