"""What all searches do, and what they write down for the benchmark; without torch, which not every process needs."""

import dataclasses
import functools
import json
import time
from pathlib import Path
from typing import Any, Self


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What all searches do, written into the folder of each as plan.json."""

    data: str
    """Folder of images, train/CLASS/*.jpg."""
    val_fraction: float
    epochs: int
    slots: int
    """Trials at a time, on a core each."""
    precision: str = "own"
    """float32 or bfloat16 in all; own is what each does by itself: float32 in peers, `auto` in ours."""
    configs: list[dict[str, Any]]
    """The trials, in order; `learning_rate` tells one from another."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the plan of a search."""
        return cls(**json.loads((folder / "plan.json").read_text(encoding="utf-8")))


@functools.cache
def watch_first_step(folder: Path) -> None:
    """Write down when this process does its first training step; the file `stepped` takes a line for each process."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    def note_step(*_: Any) -> None:
        handle.remove()
        with (folder / "stepped").open("a", encoding="utf-8") as file:
            file.write(f"{time.time()!r}\n")

    handle = register_optimizer_step_post_hook(note_step)


def note(folder: Path, learning_rate: float, epoch: int, seconds: float) -> None:
    """Write down that an epoch was trained; a line this short is appended whole."""
    with (folder / "trained").open("a", encoding="utf-8") as file:
        file.write(f"{learning_rate!r} {epoch} {seconds!r}\n")


def tell(epochs: int) -> None:
    """Print, at the end of a search, how many epochs its record holds of the trials that came to their end."""
    print(json.dumps({"epochs_held": epochs}))
