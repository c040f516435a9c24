import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from search.record.lease import find_holder, hold
from trainables.errors import InputError

HOLDER = """
import sys, time
from pathlib import Path
from search.record.lease import hold
path, machine = sys.argv[1:]
with hold(Path(path), print, machine=machine or None, beat_s=0.05):
    print("held", flush=True)
    time.sleep(60)
"""
HALF_DEAD = """
import ctypes, sys, threading, time
from pathlib import Path
from search.record.lease import hold
with hold(Path(sys.argv[1]), print):
    threading.Thread(target=time.sleep, args=(60,)).start()
    print("held", flush=True)
    ctypes.CDLL(None).pthread_exit(None)
"""
WRITER = """
import sys
from pathlib import Path
from search.record.journal import Journal
from search.record.lease import hold
path = Path(sys.argv[1])
with hold(path / "study.lock", print, machine="elsewhere", beat_s=float(sys.argv[2])) as lock:
    journal = Journal(path / "study.journal", "mine", note=print, check=lock.check)
    print("held", flush=True)
    while True:
        journal.add_trial("cnn", {}, {})
"""
RACER = """
import sys
from pathlib import Path
from search.record.lease import hold
from trainables.errors import InputError
try:
    with hold(Path(sys.argv[1]), lambda _: None, machine=sys.argv[2], beat_s=0.05, watch_s=float(sys.argv[3])):
        print("held", flush=True)
        sys.stdin.read()
except InputError as error:
    print(error)
"""


@pytest.fixture
def start(spawn):
    """Start a script that holds a lock, and wait until it does."""

    def start(script, *arguments, wait=True):
        process = spawn(
            [sys.executable, "-c", script, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        )
        if wait:
            assert process.stdout.readline() == "held\n", process.stderr.read()
        return process

    return start


def kill(process):
    process.kill()
    process.wait()


def test_a_second_driver_is_refused_and_told_who_the_first_is(tmp_path, start):
    path = tmp_path / "study.lock"
    holder = start(HOLDER, path, "")
    with (
        pytest.raises(InputError, match=f"is in use by process {holder.pid} on .* since 20"),
        hold(path, print),
    ):
        pass
    assert str(find_holder(path)).startswith(f"process {holder.pid} on ")


def test_the_lock_of_a_killed_driver_of_this_machine_is_taken_over_at_once(tmp_path, start):
    path = tmp_path / "study.lock"
    kill(start(HOLDER, path, ""))
    assert find_holder(path) is None
    with hold(path, pytest.fail, watch_s=1e6):
        assert json.loads(path.read_text())["pid"] == os.getpid()
        assert list(tmp_path.iterdir()) == [path]
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_driver_that_nobody_asks_for_is_taken_over_at_once(tmp_path, start):
    path = tmp_path / "study.lock"
    holder = start(HOLDER, path, "")
    holder.kill()
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    assert psutil.Process(holder.pid).status() == psutil.STATUS_ZOMBIE
    assert find_holder(path) is None
    with hold(path, pytest.fail, watch_s=1e6):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_driver_whose_main_thread_alone_has_ended_keeps_its_lock(tmp_path, start):
    path = tmp_path / "study.lock"
    holder = start(HALF_DEAD, path)
    while psutil.Process(holder.pid).status() != psutil.STATUS_ZOMBIE:
        assert holder.poll() is None
    with pytest.raises(InputError, match=f"is in use by process {holder.pid}"), hold(path, pytest.fail):
        pass


def test_a_lock_whose_process_number_was_given_to_another_is_taken_over(tmp_path):
    path = tmp_path / "study.lock"
    with hold(path, pytest.fail):
        mine = json.loads(path.read_text())
    path.write_text(json.dumps(mine | {"process_started": mine["process_started"] - 100}))
    with hold(path, pytest.fail, watch_s=1e6):
        assert json.loads(path.read_text())["process_started"] == mine["process_started"]


def test_a_clock_that_is_set_kills_no_driver(tmp_path, start, monkeypatch):
    """The system reckons when a process started from when it booted, by a clock that may be set."""
    path = tmp_path / "study.lock"
    holder = start(HOLDER, path, "")
    monkeypatch.setattr(psutil.Process, "create_time", lambda _: time.time() + 100)
    with pytest.raises(InputError, match=f"is in use by process {holder.pid}"), hold(path, pytest.fail):
        pass


def test_a_folder_without_hard_links_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with (
        pytest.raises(InputError, match=f"cannot create a lease in {tmp_path} .operation not permitted.* hard links"),
        hold(tmp_path / "study.lock", print),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_living_driver_of_another_machine_is_refused_at_its_next_heartbeat(tmp_path, start):
    path = tmp_path / "study.lock"
    holder = start(HOLDER, path, "elsewhere")
    notes = []
    with pytest.raises(InputError, match=f"is in use by process {holder.pid}"), hold(path, notes.append):
        pass
    assert [note.partition(" since ")[0] for note in notes] == [
        f"{tmp_path} is in use by process {holder.pid} on {os.uname().nodename}"
    ]
    assert notes[0].endswith(": waiting to see whether it is alive")


def test_a_dead_driver_of_another_machine_is_taken_over_when_its_heartbeat_stands_still(tmp_path, start):
    path = tmp_path / "study.lock"
    kill(start(HOLDER, path, "elsewhere"))
    notes = []
    with hold(path, notes.append, watch_s=0.5):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert len(notes) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("beat_s", [0.05, 3600.0], ids=["by its heartbeat", "by its next write"])
def test_a_driver_that_slept_finds_its_lock_taken_and_writes_no_more(tmp_path, start, beat_s):
    sleeper = start(WRITER, tmp_path, beat_s)
    sleeper.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, sleeper.pid, os.WSTOPPED)
    with hold(tmp_path / "study.lock", print, watch_s=0.5):
        recorded = (tmp_path / "study.journal").read_bytes()
        mine = (tmp_path / "study.lock").read_bytes()
        sleeper.send_signal(signal.SIGCONT)
        _, said = sleeper.communicate()
        assert sleeper.returncode == 1
        assert f"was taken over by process {os.getpid()}" in said
        assert json.loads((tmp_path / "study.lock").read_bytes())["token"] == json.loads(mine)["token"]
        left = (tmp_path / "study.journal").read_bytes()
    assert left.startswith(recorded)
    assert left[len(recorded) :].count(b"\n") <= 1  # what it was writing when it fell asleep


def test_of_many_drivers_that_find_one_dead_one_gets_the_lock(tmp_path, start):
    path = tmp_path / "study.lock"
    kill(start(HOLDER, path, "gone"))
    racers = [start(RACER, path, f"machine {number % 3}", 3.0, wait=False) for number in range(6)]
    answers = [racer.stdout.readline() for racer in racers]
    assert answers.count("held\n") == 1
    holder = racers[answers.index("held\n")]
    assert all(f"process {holder.pid}" in answer for answer in answers if answer != "held\n")
    assert json.loads(path.read_text())["pid"] == holder.pid
    assert list(tmp_path.iterdir()) == [path]


def test_a_claim_that_a_kill_left_is_cleared(tmp_path, start):
    path = tmp_path / "study.lock"
    kill(start(HOLDER, path, ""))
    path.with_name("study.lock.next").write_bytes(path.read_bytes())
    with hold(path, pytest.fail):
        assert json.loads(path.read_text())["pid"] == os.getpid()
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "content",
    ["{", "[" * 4096, "[]", *({name: value} for name, value in (("pid", "x"), ("pid", -5), ("process_started", None)))],
)
def test_a_lock_that_cannot_be_read_is_watched_too(tmp_path, content):
    path = tmp_path / "study.lock"
    if isinstance(content, dict):
        with hold(path, pytest.fail):
            content = json.dumps(json.loads(path.read_text()) | content)
    path.write_text(content)
    notes = []
    with hold(path, notes.append, watch_s=0.2):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert "an unknown process" in notes[0]


def test_of_a_strangers_endless_lock_only_the_beginning_is_read(tmp_path):
    path = tmp_path / "study.lock"
    with path.open("wb") as file:
        file.truncate(2**42)  # more than any memory
    assert find_holder(path) is None
    with hold(path, lambda _: None, watch_s=0.2):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_the_lock_is_let_go_when_the_search_breaks(tmp_path):
    with pytest.raises(ZeroDivisionError), hold(tmp_path / "study.lock", print):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
