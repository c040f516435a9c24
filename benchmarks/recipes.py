"""Trains recipes of one architecture on the same few images for the same epochs, and compares them on validation.

Run `python -m benchmarks.recipes --data PATH [RECIPE ...] [--images 4000] [--epochs 5] [--seeds 5] [--json PATH]`;
by default the best small CNN that is known against the paper's CNN. Each seed draws new images, weights and orders.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from scipy import stats

from search.config.yaml import read_yaml
from trainables.config import build_train_config
from trainables.pack import pack
from trainables.runtime import describe_device, keep_memory, pick_device
from trainables.splits import open_train
from trainables.train import train

RECIPES = (Path("configs/recipes/small_cnn.yaml"), Path("configs/recipes/paper_cnn.yaml"))


def measure(recipe: Path, packed: Path, *, images: int, val_images: int, epochs: int, seed: int) -> float:
    """Return the accuracy of the last epoch, on images that were not trained on."""
    point = read_yaml(recipe)
    config = build_train_config(point["architecture"], point["params"], epochs=epochs, seed=seed)
    total = images + val_images
    train_split, val_split = open_train(packed, val_fraction=val_images / total, seed=seed, max_images=total)
    *_, last = train(config, train_split, val_split, device=pick_device())
    return last.metrics["accuracy"]


def main() -> None:
    """Train, print and, if asked, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", type=Path, default=RECIPES, metavar="RECIPE")
    parser.add_argument("--data", type=Path, required=True, help="folder or zip in CIFAKE's layout")
    parser.add_argument("--cache", type=Path, help="folder of the packed images; default: they are not kept")
    parser.add_argument("--images", type=int, default=4000, help="training images")
    parser.add_argument("--val-images", type=int, default=4000, help="validation images")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where the figures are written")
    arguments = parser.parse_args()
    keep_memory()
    found: dict[str, list[float]] = {recipe.stem: [] for recipe in arguments.recipes}
    with tempfile.TemporaryDirectory() as scratch:
        packed = pack(arguments.data, arguments.cache or Path(scratch))
        for seed in range(arguments.seeds):
            for recipe in arguments.recipes:
                sizes = {"images": arguments.images, "val_images": arguments.val_images, "epochs": arguments.epochs}
                accuracy = measure(recipe, packed, **sizes, seed=seed)
                found[recipe.stem].append(accuracy)
                print(f"seed {seed}  {recipe.stem:24} {100 * accuracy:6.2f} %", flush=True)
    figures: dict[str, Any] = {"device": describe_device(pick_device()), "accuracies": found}
    for name, accuracies in found.items():
        deviation = f" +- {100 * statistics.stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
        print(f"{name:32} {100 * statistics.fmean(accuracies):6.2f}{deviation} %")
    if len(found) == 2 and arguments.seeds > 1:
        difference = stats.ttest_rel(*found.values())
        low, high = difference.confidence_interval()
        figures["difference_interval"] = [float(low), float(high)]
        print(f"difference, 95 % interval over seeds: {100 * low:.2f} to {100 * high:.2f} points")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
