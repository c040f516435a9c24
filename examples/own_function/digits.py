"""Searches the size and the learning rate of a network for scikit-learn's handwritten digits.

python examples/own_function/digits.py      # run the same command again to continue the search
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from search import Choice, Range, search


def load():
    """Return training and validation images (N, 64) with their labels."""
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images / 16, labels, test_size=0.25, random_state=0, stratify=labels)
    return [torch.tensor(part, dtype=torch.float32 if part.ndim == 2 else torch.long) for part in split]


def mlp(run, hidden: int = 32, lr: float = 1e-2, activation: str = "relu"):
    """Train one network; each epoch ends with its validation error."""
    train_images, val_images, train_labels, val_labels = load()
    layer = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}[activation]
    model = torch.nn.Sequential(torch.nn.Linear(64, hidden), layer(), torch.nn.Linear(hidden, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in run.epochs(model, optimizer):  # the epochs that remain; state and random numbers are restored
        for batch in torch.randperm(len(train_labels)).split(64):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(train_images[batch]), train_labels[batch])
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            wrong = model(val_images).argmax(1) != val_labels
        yield {"error": wrong.float().mean(), "train_loss": loss}  # the checkpoint is written, then this is reported


if __name__ == "__main__":
    trials = search(
        mlp,
        {"hidden": Range(8, 128, log=True), "lr": Range(1e-3, 1.0, log=True), "activation": Choice(["relu", "tanh"])},
        name="digits",
        metric="error",
        goal="min",
        num_trials=12,
        max_epochs=9,
    )
    value, epoch = trials[0].get_peak()
    print(f"best: trial {trials[0].number}, {value:.4f} in epoch {epoch}, {trials[0].params}")
