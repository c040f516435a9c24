"""The lease of a study: the right of one driver to write it, kept alive by a heartbeat.

The system knows whether a holder on this machine is alive. A holder on another machine is watched, without comparing
clocks: if its lease gets no heartbeat, it is taken over. A holder that was only suspended notices this before its next
write, and within two seconds after it continues. It then ends without writing to the study.

One case remains: a driver may be suspended in the microseconds between its check and the write, for longer than the
watch. It then finishes that one write when it continues.
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
from typing import Protocol, Self

import psutil

from search.config.fields import Count
from search.config.load import check
from search.config.printable import escape
from search.record.errors import explain_denied
from search.record.exit import leave
from search.record.lease_file import FileSlot
from trainables.errors import InputError

BEAT_S = 2.0
"""Seconds between two heartbeats."""
WATCH_S = 30.0
"""Seconds without a heartbeat after which a holder on another machine counts as dead: fifteen heartbeats, so that a
machine that swaps, or has a slow network disk, keeps its lease."""
NUM_LOOKS = 30
"""Reads during a watch; counted, so that a watcher that was suspended itself does not take over at once."""


class Slot(Protocol):
    """Where one lease is stored: a file, or an object of a store."""

    folder: str
    """The study's folder or URL, for messages."""

    def read(self) -> bytes | None:
        """Return the content, None if the lease is free."""

    def create(self, content: bytes) -> bool:
        """Take a free lease in one step; return False if it is held."""

    def replace(self, before: bytes, content: bytes) -> bool:
        """Take over a lease in one step; return False if its content is no longer `before`."""

    def refresh(self, content: bytes) -> None:
        """Write a new heartbeat into this process's own lease, never into another one."""

    def remove(self) -> None:
        """Delete this process's own lease."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The process that holds a lease."""

    host: str
    machine: str
    """Boot of its machine and its process namespace; they decide which other processes it sees."""
    pid: Count
    process_started: float
    """Start of its process in units of its machine, since a later process may get the same number."""
    since: str
    """Time at which it took the lease."""
    token: str
    """Random text, new for each lease."""
    is_search: bool = True
    """Whether it searches, and takes in requests; else it evaluates the study or uploads it."""

    @classmethod
    def describe_self(cls, machine: str, *, is_search: bool) -> Self:
        """Return this process as a holder."""
        return cls(
            host=platform.node(),
            machine=machine,
            pid=os.getpid(),
            process_started=find_start(os.getpid()),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
            token=os.urandom(8).hex(),
            is_search=is_search,
        )

    @classmethod
    def parse(cls, content: bytes) -> Self | None:
        """Return the holder that a lease names, None if the content is not a lease."""
        try:
            return check(cls, json.loads(content), "the lease")
        except (ValueError, RecursionError):
            return None

    def write(self, beat: int) -> bytes:
        """Return the lease's content; its length does not depend on the number of the heartbeat."""
        return json.dumps(dataclasses.asdict(self) | {"beat": f"{beat:012}"}).encode()

    def is_dead(self, machine: str) -> bool:
        """Return whether the system knows that this process is gone; it knows nothing about other machines.

        A zombie is gone: it only waits for a parent that may never ask for it. But until its last thread has ended, one
        of them may still be writing.
        """
        if self.machine != machine:
            return False
        try:
            process = psutil.Process(self.pid)
            is_other = abs(find_start(self.pid) - self.process_started) >= 1.0
            return is_other or (process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1)
        except psutil.NoSuchProcess:
            return True

    def __str__(self) -> str:
        return escape(f"process {self.pid} on {self.host} since {self.since}")


class Lease:
    """A lease that this process holds."""

    def __init__(self, slot: Slot, holder: Holder) -> None:
        self._slot = slot
        self._holder = holder
        self._beats = 0

    def check(self) -> None:
        """End this process at once if the lease was taken over; call it before each write that counts.

        Nothing is cleaned up: from then on every file of the study belongs to another driver.
        """
        content = self._slot.read()
        other = Holder.parse(content) if content is not None else None
        if other is None or other.token != self._holder.token:
            what = f"was taken over by {other}" if other else "is gone"
            leave(f"error: the lease on {self._slot.folder} {what}: this process ends and writes no more", 1)

    def beat(self) -> None:
        """Show that this process is alive."""
        self.check()
        self._beats += 1
        self._slot.refresh(self._holder.write(self._beats))

    def beat_until(self, stop: threading.Event, every_s: float) -> None:
        """Beat until `stop` is set; if the lease cannot be reached now, the next beat tries again."""
        while not stop.wait(every_s):
            with suppress(OSError):
                self.beat()


@contextmanager
def hold(
    place: Path | Slot,
    note: Callable[[str], None],
    *,
    is_search: bool = True,
    machine: str | None = None,
    beat_s: float = BEAT_S,
    watch_s: float = WATCH_S,
) -> Iterator[Lease]:
    """Hold a lease for as long as the block lasts.

    Args:
        place: The lease's file, or another slot.
        note: Receives a sentence when a holder on another machine has to be watched.
        is_search: Whether this process searches, and does not only evaluate the study or upload it.
        machine: Identifier of `describe_machine`; None asks the system.
        beat_s: Seconds between two heartbeats.
        watch_s: Seconds without a heartbeat after which a holder on another machine counts as dead.

    Raises:
        InputError: If another driver holds it; the message names its process, host and time.
    """
    slot = FileSlot(place) if isinstance(place, Path) else place
    holder = Holder.describe_self(machine or describe_machine(), is_search=is_search)
    cure = "it needs a folder that you may write to, on a file system with hard links"
    with explain_denied(f"cannot create a lease in {slot.folder}", cure):
        _acquire(slot, holder, note, watch_s)
    lease = Lease(slot, holder)
    stop = threading.Event()
    beating = threading.Thread(target=lease.beat_until, args=(stop, beat_s), daemon=True, name="heartbeat")
    beating.start()
    try:
        yield lease
    finally:
        stop.set()
        beating.join()
        lease.check()
        slot.remove()


def find_holder(place: Path | Slot) -> Holder | None:
    """Return the process that holds a lease, None if none does; one on another machine may no longer be alive."""
    content = (FileSlot(place) if isinstance(place, Path) else place).read()
    holder = Holder.parse(content) if content is not None else None
    return None if holder is None or holder.is_dead(describe_machine()) else holder


def find_start(pid: int) -> float:
    """Return when a process started: in clock ticks since boot, which no clock change affects, or else in seconds.

    Raises:
        psutil.NoSuchProcess: If it is gone.
    """
    started: float = psutil.Process(pid).create_time()
    with suppress(OSError):  # no Linux, or the process has ended meanwhile
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # after its name, from field 3 on
        started = float(fields[19])
    return started


def describe_machine() -> str:
    """Return an identifier that processes share if and only if they see each other: boot and process namespace."""
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
            note(f"{slot.folder} is in use by {holder or 'an unknown process'}: waiting to see whether it is alive")
            after = _watch(slot, before, watch_s)
            if after is None or Holder.parse(after) != holder:
                continue  # it was released, or another process took it
            is_alive = after != before
        if is_alive:
            raise InputError(f"{slot.folder} is in use by {holder or 'another process'}: stop it first, or wait for it")
        if slot.replace(before, content):
            return


def _watch(slot: Slot, before: bytes, watch_s: float) -> bytes | None:
    """Return a slot's new content as soon as it changes, or the old one after the whole watch."""
    for _ in range(NUM_LOOKS):
        time.sleep(watch_s / NUM_LOOKS)
        if (after := slot.read()) != before:
            return after
    return before
