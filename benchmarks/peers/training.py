"""The training that every peer calls for its trials, as tutorials show it: ImageFolder, DataLoader, a plain loop."""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, random_split
from torchvision import datasets, transforms

from benchmarks.peers.plan import Plan, note, watch_first_step
from trainables.models.cnn.config import CnnConfig
from trainables.models.model import build_model


def train(
    config: dict[str, Any], plan: Plan, folder: Path, checkpoint: dict[str, Any] | None = None
) -> Iterator[tuple[dict[str, float], dict[str, Any]]]:
    """Train one configuration on one core; yield metrics and the state after each epoch.

    Args:
        config: One of the plan's.
        plan: The plan that all searches follow.
        folder: Of the search; its file `trained` takes a line for each epoch, `stepped` one for each process.
        checkpoint: A state to continue from.
    """
    torch.set_num_threads(1)
    watch_first_step(folder)
    images = datasets.ImageFolder(str(Path(plan.data) / "train"), transforms.ToTensor())
    num_val = round(plan.val_fraction * len(images))
    parts = random_split(images, [len(images) - num_val, num_val], torch.Generator().manual_seed(0))
    train_loader = DataLoader(parts[0], batch_size=config["batch_size"], shuffle=True)
    val_loader = DataLoader(parts[1], batch_size=128)
    names = {field.name for field in dataclasses.fields(CnnConfig)}
    model = build_model(CnnConfig(**{name: value for name, value in config.items() if name in names}))
    optimizer = torch.optim.Adam(model.parameters(), lr=config["learning_rate"])
    criterion = nn.BCEWithLogitsLoss()
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=plan.precision == "bfloat16")
    if checkpoint is not None:
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
    for epoch in range(1 + (checkpoint["epoch"] if checkpoint else 0), plan.epochs + 1):
        started = time.perf_counter()
        model.train()
        for batch, labels in train_loader:
            optimizer.zero_grad()
            with autocast:
                logits = model(batch)
            criterion(logits.float(), labels.float()).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad(), autocast:
            num_right = sum(int(((model(batch) > 0) == (labels > 0)).sum()) for batch, labels in val_loader)
        seconds = time.perf_counter() - started
        note(folder, config["learning_rate"], epoch, seconds)
        metrics = {"epoch": epoch, "accuracy": num_right / num_val, "seconds": seconds}
        yield metrics, {"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
