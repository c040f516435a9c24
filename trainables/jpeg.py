"""Bounds what a JPEG can cost: Pillow reads any number of segments and scans."""

import re

SIGNATURE = b"\xff\xd8"
MAX_SEGMENTS = 10_000
"""Largest number of segments: Pillow keeps each in memory, and real files have some tens."""
MAX_SCANS = 100
"""Largest number of scans: each takes as long as all pixels, and a progressive JPEG has some ten."""
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
ALONE = {0x01, *range(0xD0, 0xD9)}
"""Markers without a segment. Source: ITU-T T.81, table B.1."""
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
"""A marker that ends the data of a scan; in the data, a zero or a restart marker follows each FF."""


def is_bounded(data: bytes) -> bool:
    """Return whether a JPEG has at most MAX_SEGMENTS segments and MAX_SCANS scans; other damage is not looked for."""
    place, num_scans = 0, 0
    for _ in range(MAX_SEGMENTS):
        marker = _MARKER.search(data, place)
        if marker is None or data[marker.end() - 1] == END_OF_IMAGE:
            return num_scans <= MAX_SCANS
        kind, place = data[marker.end() - 1], marker.end()
        num_scans += kind == START_OF_SCAN
        if kind not in ALONE:
            place += int.from_bytes(data[place : place + 2])
    return False
