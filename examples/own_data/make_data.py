"""Draws a small data set of two classes: noisy discs and squares, 64x64 pixels, in shapes/{disc,square}/*.png.

python examples/own_data/make_data.py [FOLDER]
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

NUM, SIZE = 200, 64


def draw(name: str, generator: np.random.Generator) -> Image.Image:
    """Draw one shape of random place, size and colours, under noise."""
    colours = generator.integers(60, 200, size=(2, 3)).tolist()
    image = Image.new("RGB", (SIZE, SIZE), tuple(colours[0]))
    side = int(generator.integers(20, 40))
    left, top = (int(place) for place in generator.integers(0, SIZE - side, size=2))
    shape = ImageDraw.Draw(image).ellipse if name == "disc" else ImageDraw.Draw(image).rectangle
    shape((left, top, left + side, top + side), fill=tuple(colours[1]))
    noise = generator.normal(scale=20, size=(SIZE, SIZE, 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def main(folder: Path) -> None:
    """Write the images of both classes."""
    for seed, name in enumerate(("disc", "square")):
        generator = np.random.default_rng(seed)
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(NUM):
            draw(name, generator).save(folder / name / f"{number:03}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "shapes"))
