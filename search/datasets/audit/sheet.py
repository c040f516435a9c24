"""The contact sheet of an audit: one picture with examples of near-duplicates."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from search.config.printable import escape
from search.datasets.audit.findings import NearPair, list_relations
from search.datasets.audit.images import Images

COLUMNS, ROWS = 6, 2
"""Examples in a row and in a column, for each relation."""
SIDE = 96
"""Smallest side of an image on the sheet in pixels; images are enlarged by a whole number, without interpolation."""
GAP, LINE = 8, 13
"""Pixels between examples, and height of a line of text in pixels."""


def draw_sheet(images: Images, near: Sequence[NearPair]) -> Image.Image:
    """Draw up to 12 pairs of each relation, evenly spaced from the most to the least similar.

    Below each pair are its two files, the differing bits of the hashes, the difference of the pixels, and their
    correlation.
    """
    size = images.pixels.shape[1]
    side = size * -(-SIDE // size)
    width, row_height = 2 * side + GAP, side + 3 * LINE + GAP
    groups = {
        relation: [pair for pair in near if pair.relation == relation] for relation in list_relations(images.layout)
    }
    shown = {relation: _spread(group) for relation, group in groups.items() if group}
    heights = [2 * LINE + -(-len(pairs) // COLUMNS) * row_height for pairs in shown.values()]
    sheet = Image.new("RGB", (COLUMNS * width + GAP, sum(heights) + GAP), "white")
    draw, places = ImageDraw.Draw(sheet), {name: row for row, name in enumerate(images.names)}
    top = GAP
    for (relation, pairs), height in zip(shown.items(), heights, strict=True):
        draw.text((GAP, top), f"{relation}: {len(pairs)} of {len(groups[relation])} pairs", fill="black")
        for number, pair in enumerate(pairs):
            corner = (GAP + number % COLUMNS * width, top + 2 * LINE + number // COLUMNS * row_height)
            for place, name in enumerate(pair.names):
                tile = Image.fromarray(images.pixels[places[name]]).resize((side, side), Image.Resampling.NEAREST)
                sheet.paste(tile, (corner[0] + place * side, corner[1]))
            lines = [
                *map(_shorten, pair.names),
                f"{pair.distance} bits, {pair.difference:.1f} levels, r = {pair.correlation:.2f}",
            ]
            draw.text((corner[0], corner[1] + side), "\n".join(lines), fill="black", spacing=1)
        top += height
    return sheet


def _spread(pairs: Sequence[NearPair]) -> list[NearPair]:
    """Choose evenly spaced pairs, including the first and the last."""
    places = np.linspace(0, len(pairs) - 1, min(len(pairs), COLUMNS * ROWS))
    return [pairs[int(place)] for place in places.round()]


def _shorten(name: str) -> str:
    """Shorten a name to fit below an image, in characters that every font has."""
    plain = escape(name).encode("ascii", "backslashreplace").decode()
    return plain if len(plain) <= 32 else f"{plain[:14]}...{plain[-15:]}"
