"""Trials of earlier studies as history for the samplers: learnt.json, written once when a study starts.

A resumed study reads only this file, so its proposals do not depend on later changes of the earlier studies.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search.config.fields import Digest
from search.config.load import check
from search.config.schema import LEARNT
from search.config.untrusted import LINE_BYTES, read_file
from search.record.trial import Trial
from trainables.durable import write_file
from trainables.errors import InputError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """Hashes of learnt.json and of its sources, in study.yaml."""

    sha256: Digest
    """SHA-256 of learnt.json."""
    journals: dict[str, Digest | None]
    """Earlier study -> SHA-256 of its journal when it was read; None for a journal in a database."""


def save_learnt(folder: Path, trials: Sequence[Trial], journals: Mapping[str, str | None]) -> dict[str, Any]:
    """Write learnt.json and return its entry in study.yaml.

    Raises:
        InputError: If it would be too large to be read again.
    """
    content = json.dumps([dataclasses.asdict(trial) for trial in trials]).encode()
    if len(content) > LINE_BYTES:
        told = f"the {len(trials):,} trials of these studies take {len(content):,} bytes, more than {LINE_BYTES:,}"
        raise InputError(f"search.learn_from: {told}: name fewer studies")
    write_file(folder / LEARNT, content)
    return {"sha256": hashlib.sha256(content).hexdigest(), "journals": dict(journals)}


def load_learnt(folder: Path, manifest: Mapping[str, Any]) -> tuple[Trial, ...]:
    """Read learnt.json, if the study has one.

    Raises:
        InputError: If it is missing, damaged, or not the file that the study started with.
    """
    if (known := manifest.get("learnt")) is None:
        return ()
    path = folder / LEARNT
    content = read_file(path, LINE_BYTES) if path.exists() else b""
    if hashlib.sha256(content).hexdigest() != known["sha256"]:
        raise InputError(f"{path} is not the file that the study started with: restore it from a copy")
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        raise InputError(f"{path} is damaged: restore it from a copy") from None
    return check(tuple[Trial, ...], values, str(path))
