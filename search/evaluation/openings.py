"""The openings of the test split, in study.yaml and in the journal: each has the hash of the previous one.

An opening is recorded in the journal, then in study.yaml; then the test split is opened. After a kill between the first
two steps, the entry in study.yaml is completed from the journal. So if only one of the two has an opening, it was
removed from the other. Removal from both is noticed if a later opening follows. Removal of the last one from both is
not noticed here, but its hash is in W&B's run of the evaluation and in the report.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from search.config.load import check
from search.evaluation.choices import stamp
from search.record.choices import Stamp

Opening = Mapping[str, Any]
"""Has time, commit, dirty, previous (hash of the opening before; None for the first) and hash."""


def build_opening(evaluations: Sequence[Mapping[str, Any]], journaled: Sequence[Opening]) -> dict[str, Any]:
    """Return an opening for the last evaluation, chained to all known ones."""
    chained, unchained = _list_chained(evaluations, journaled), _list_unchained(evaluations)
    previous = next(reversed([*unchained, *chained]), None)
    opening = {**stamp(), "previous": previous}
    return {**opening, "hash": _hash(evaluations[-1], opening)}


def complete_entries(evaluations: Sequence[dict[str, Any]], journaled: Sequence[Opening]) -> None:
    """Complete the entries whose opening is only in the journal because of a kill.

    Raises:
        InputError: If such an opening is damaged.
    """
    for entry in evaluations:
        for opening in journaled:
            if not entry.get("opened") and _hash(entry, opening) == _get_hash(opening):
                check(Stamp, opening, "the journal's opening of the test split")
                entry["opened"] = dict(opening)


def describe_openings(evaluations: Sequence[Mapping[str, Any]], journaled: Sequence[Opening]) -> list[str]:
    """Return notes about how often the test split was opened, and about openings that were removed or changed later."""
    chained, unchained = _list_chained(evaluations, journaled), _list_unchained(evaluations)
    count = len(chained) + len(unchained)
    if not count:
        return []
    often = "once" if count == 1 else f"{count} times"
    head = f" The hash of the last opening begins with {next(reversed(chained))[:16]}." if chained else ""
    notes = [f"The test split was opened {often}.{head}"]
    if unchained:
        notes.append(
            f"Openings of the test split that are not chained: {len(unchained)}. An earlier version recorded them, so "
            "it cannot be noticed if an opening before them was removed."
        )
    return [*notes, *_describe_faults(evaluations, journaled)]


def _describe_faults(evaluations: Sequence[Mapping[str, Any]], journaled: Sequence[Opening]) -> list[str]:
    chained, unchained = _list_chained(evaluations, journaled), _list_unchained(evaluations)
    here = {_get_hash(entry.get("opened")): entry for entry in evaluations}
    there = {_get_hash(opening): opening for opening in journaled}
    faults = []
    for sha256, opening in chained.items():
        what = f"The opening of the test split at {opening.get('time')}"
        if sha256 not in here:
            faults.append(f"{what} is in the journal and not in study.yaml: it was removed there.")
        elif {_hash(here[sha256], each) for each in (opening, there.get(sha256, opening))} != {sha256}:
            faults.append(f"{what} was changed after it was recorded.")
        if sha256 not in there:
            faults.append(f"{what} is in study.yaml and not in the journal: it was removed there.")
        if opening.get("previous") not in [None, *unchained, *chained]:
            faults.append(f"{what} follows another one that was removed from study.yaml and from the journal.")
    return faults


def _list_chained(evaluations: Sequence[Mapping[str, Any]], journaled: Sequence[Opening]) -> dict[str, Opening]:
    """Return hash -> opening, for those that have a hash, those of the journal first."""
    found = [*journaled, *(entry.get("opened") for entry in evaluations)]
    chained: dict[str, Opening] = {}
    for opening in found:
        if (sha256 := _get_hash(opening)) is not None:
            chained[sha256] = opening or {}
    return chained


def _list_unchained(evaluations: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the hashes of the openings that were recorded without one."""
    opened = [entry for entry in evaluations if entry.get("opened") and _get_hash(entry["opened"]) is None]
    return [_hash(entry, entry["opened"]) for entry in opened]


def _get_hash(opening: Any) -> str | None:
    found = opening.get("hash") if isinstance(opening, Mapping) else None
    return found if isinstance(found, str) else None


def _hash(entry: Mapping[str, Any], opening: Any) -> str:
    """Return the SHA-256 of an entry's choices with its opening, and so with the hash of the one before."""
    plain = {key: value for key, value in opening.items() if key != "hash"} if isinstance(opening, Mapping) else opening
    try:
        text = json.dumps({**entry, "opened": plain}, sort_keys=True, default=str)
    except TypeError:  # keys of several types, which a stranger wrote
        text = repr(entry)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
