"""Derives the seeds of all random draws of a training."""

import hashlib


def derive_seed(seed: int, purpose: str, epoch: int = 0) -> int:
    """Derive a seed in [0, 2^63) for one purpose and epoch.

    No generator is kept from one epoch to the next, so none has to be saved: an epoch is a pure function of weights,
    optimizer state, seed and epoch number.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
