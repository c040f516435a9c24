"""One driver per study: a lock that names its holder and that its holder keeps alive by a heartbeat.

A holder on this machine is asked of the system. One on another machine is watched, with no comparing of clocks: a lock
whose heartbeat stands still was left by a machine that is gone, and is taken over. A holder that was only asleep finds
that out before it writes its next fact, and within two seconds of waking, and ends without another word in the study's
files. What remains: a driver that falls asleep between its last look at the lock and the write behind it, microseconds
later, and sleeps through the whole watch, finishes that one write when it wakes.
"""

import dataclasses
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, Self

import psutil

from search.config.printable import escape
from search.record.exit import leave
from search.record.lease_file import FileSlot
from search.record.object_store import StoreError
from trainables.errors import DISK_FULL, InputError

BEAT_S = 2.0
"""Seconds between two heartbeats."""
WATCH_S = 30.0
"""Seconds without a heartbeat after which a holder on another machine counts as gone: fifteen of them, so that a
machine that swaps or a slow network disk is not taken for one."""
NUM_LOOKS = 30
"""Looks that a watch consists of; not time alone, so that a watcher that was asleep itself does not jump to it."""


class Slot(Protocol):
    """A place that holds the content of one lock or nothing: a file, or an object in a store."""

    folder: str
    """What the lock protects, for sentences."""

    def read(self) -> bytes | None:
        """Return what is there now, None if nothing is."""

    def create(self, content: bytes) -> bool:
        """Put content there in one step; answer False, and do nothing, where something is."""

    def replace(self, before: bytes, content: bytes) -> bool:
        """Put content in place of what was there before; answer False if by now something else is."""

    def refresh(self, content: bytes) -> None:
        """Put a new heartbeat into one's own lock; never into one that took its place."""

    def remove(self) -> None:
        """Take away one's own lock."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds a lock."""

    host: str
    machine: str
    """Which processes it sees: the boot of its machine and its namespace of processes."""
    pid: int
    process_started: float
    """When its process started, in whatever its machine counts; tells it from a later process with its number."""
    since: str
    """When it took the lock."""
    token: str
    """Drawn for each taking of a lock."""

    @classmethod
    def describe_self(cls, machine: str) -> Self:
        """Return this process as a holder."""
        return cls(
            host=platform.node(),
            machine=machine,
            pid=os.getpid(),
            process_started=find_start(os.getpid()),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
            token=os.urandom(8).hex(),
        )

    @classmethod
    def parse(cls, content: bytes) -> Self | None:
        """Return whose lock this is, None if the content is no lock."""
        try:
            known: dict[str, Any] = json.loads(content)
            return cls(**{field.name: known[field.name] for field in dataclasses.fields(cls)})
        except (ValueError, KeyError, TypeError):
            return None

    def write(self, beat: int) -> bytes:
        """Return the lock's content; its length does not depend on the number of the heartbeat."""
        return json.dumps(dataclasses.asdict(self) | {"beat": f"{beat:012}"}).encode()

    def is_dead(self, machine: str) -> bool:
        """Answer whether the system knows that this very process is gone; of other machines it knows nothing."""
        if self.machine != machine:
            return False
        try:
            return abs(find_start(self.pid) - self.process_started) >= 1.0
        except psutil.NoSuchProcess:
            return True

    def __str__(self) -> str:
        return escape(f"process {self.pid} on {self.host} since {self.since}")


class Lock:
    """A lock that this process holds."""

    def __init__(self, slot: Slot, holder: Holder) -> None:
        self._slot = slot
        self._holder = holder
        self._beats = 0

    def check(self) -> None:
        """End this process at once if the lock was taken over; to be called before each write that counts.

        Nothing is cleaned up: from then on, every file of the study is another driver's.
        """
        content = self._slot.read()
        other = Holder.parse(content) if content is not None else None
        if other is None or other.token != self._holder.token:
            what = f"was taken over by {other}" if other else "is gone"
            leave(f"error: the lock on {self._slot.folder} {what}: this process ends and writes no more", 1)

    def beat(self) -> None:
        """Show that this process lives."""
        self.check()
        self._beats += 1
        self._slot.refresh(self._holder.write(self._beats))

    def beat_until(self, stop: threading.Event, every_s: float) -> None:
        """Beat until told to stop; a place that cannot be reached now is tried again."""
        while not stop.wait(every_s):
            with suppress(OSError):
                self.beat()


@contextmanager
def hold(
    place: Path | Slot,
    note: Callable[[str], None],
    *,
    machine: str | None = None,
    beat_s: float = BEAT_S,
    watch_s: float = WATCH_S,
) -> Iterator[Lock]:
    """Hold a lock for as long as the block lasts.

    Args:
        place: The lock's file, or another slot.
        note: Told in a sentence when a holder on another machine has to be watched.
        machine: Which processes this one sees; None asks the system.
        beat_s: Seconds between two heartbeats.
        watch_s: Seconds without a heartbeat after which a holder on another machine counts as gone.

    Raises:
        InputError: If another driver holds it; the message has its process, host and time.
    """
    slot = FileSlot(place) if isinstance(place, Path) else place
    holder = Holder.describe_self(machine or describe_machine())
    try:
        _acquire(slot, holder, note, watch_s)
    except StoreError:
        raise
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        reason = (error.strerror or str(error)).lower()
        raise InputError(
            f"no lock can be put into {slot.folder} ({reason}): it needs a folder that you may write to, "
            "on a file system with hard links"
        ) from None
    lock = Lock(slot, holder)
    stop = threading.Event()
    beating = threading.Thread(target=lock.beat_until, args=(stop, beat_s), daemon=True, name="heartbeat")
    beating.start()
    try:
        yield lock
    finally:
        stop.set()
        beating.join()
        lock.check()
        slot.remove()


def find_holder(place: Path | Slot) -> str | None:
    """Return who holds a lock, None where nobody does; of a holder on another machine whether it lives is not known."""
    content = (FileSlot(place) if isinstance(place, Path) else place).read()
    holder = Holder.parse(content) if content is not None else None
    return None if holder is None or holder.is_dead(describe_machine()) else str(holder)


def find_start(pid: int) -> float:
    """Return when a process started: in clock ticks since the boot, which no setting of the clock moves, or in seconds.

    Raises:
        psutil.NoSuchProcess: If it is gone.
    """
    started: float = psutil.Process(pid).create_time()
    with suppress(OSError):  # no Linux, or gone since
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # after its name, from field 3 on
        started = float(fields[19])
    return started


def describe_machine() -> str:
    """Return what tells the processes that can be seen here from those of other machines and containers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{platform.node()} {boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux, so no containers either
        return platform.node()


def _acquire(slot: Slot, mine: Holder, note: Callable[[str], None], watch_s: float) -> None:
    content = mine.write(0)
    while not slot.create(content):
        before = slot.read()
        if before is None:
            continue
        holder = Holder.parse(before)
        if holder is not None and holder.machine == mine.machine:
            is_alive = not holder.is_dead(mine.machine)
        else:
            note(f"{slot.folder} is held by {holder or 'an unknown process'}: waiting to see whether it is alive")
            after = _watch(slot, before, watch_s)
            if after is None or Holder.parse(after) != holder:
                continue  # it was let go, or went to another one
            is_alive = after != before
        if is_alive:
            raise InputError(
                f"{slot.folder} is being searched by {holder or 'another process'}: stop it first, or wait for it"
            )
        if slot.replace(before, content):
            return


def _watch(slot: Slot, before: bytes, watch_s: float) -> bytes | None:
    """Watch until a slot's content is another, or long enough to say that it stands still; return it."""
    for _ in range(NUM_LOOKS):
        time.sleep(watch_s / NUM_LOOKS)
        if (after := slot.read()) != before:
            return after
    return before
