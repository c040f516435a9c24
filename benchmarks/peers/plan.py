"""The plan that all searches follow, and their notes for the benchmark; it does not import torch."""

import dataclasses
import functools
import json
import time
from pathlib import Path
from typing import Any, Self


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The plan that all searches follow, written into each search's folder as plan.json."""

    data: str
    """Folder of images, train/CLASS/*.jpg."""
    val_fraction: float
    epochs: int
    slots: int
    """Trials that run at the same time, one core each."""
    precision: str = "own"
    """float32 or bfloat16 for all searches; own is each one's default: float32 for peers, `auto` for ours."""
    configs: list[dict[str, Any]]
    """The trials, in order; each has another `learning_rate`."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the plan of a search."""
        return cls(**json.loads((folder / "plan.json").read_text(encoding="utf-8")))


@functools.cache
def watch_first_step(folder: Path) -> None:
    """Write the time of this process's first training step into the file `stepped`, one line for each process."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    def note_step(*_: Any) -> None:
        handle.remove()
        with (folder / "stepped").open("a", encoding="utf-8") as file:
            file.write(f"{time.time()!r}\n")

    handle = register_optimizer_step_post_hook(note_step)


def note(folder: Path, learning_rate: float, epoch: int, seconds: float) -> None:
    """Append a line about a trained epoch; a line this short is appended as a whole."""
    with (folder / "trained").open("a", encoding="utf-8") as file:
        file.write(f"{learning_rate!r} {epoch} {seconds!r}\n")


def tell(epochs: int) -> None:
    """Print, at the end of a search, the number of recorded epochs of all trials that have ended."""
    print(json.dumps({"epochs_held": epochs}))
