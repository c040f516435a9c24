import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from search.lock import hold
from trainables.errors import InputError

HOLDER = """
import sys, time
from pathlib import Path
from search.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Return a process that holds the lock tmp_path/study.lock."""
    command = [sys.executable, "-c", HOLDER, tmp_path / "study.lock"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(Path.cwd())}
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_driver_is_refused_and_told_who_the_first_is(tmp_path, holder):
    with (
        pytest.raises(InputError, match=f"is being searched by process {holder.pid} on .* since 20"),
        hold(tmp_path / "study.lock"),
    ):
        pass
    assert (tmp_path / "study.lock").exists()


def test_the_lock_of_a_killed_driver_is_taken_over(tmp_path, holder):
    holder.kill()
    holder.wait()
    with hold(tmp_path / "study.lock"):
        assert json.loads((tmp_path / "study.lock").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_whose_process_number_was_given_to_another_is_taken_over(tmp_path):
    path = tmp_path / "study.lock"
    with hold(path):
        mine = json.loads(path.read_text())
    path.write_text(json.dumps(mine | {"process_started": mine["process_started"] - 100}))
    with hold(path):
        assert json.loads(path.read_text())["process_started"] == mine["process_started"]


def test_the_lock_of_another_host_is_never_taken_over(tmp_path):
    path = tmp_path / "study.lock"
    with hold(path):
        mine = json.loads(path.read_text())
    path.write_text(json.dumps(mine | {"host": "elsewhere"}))
    with pytest.raises(InputError, match=r"on elsewhere .* if that one is gone, delete"), hold(path):
        pass


def test_the_lock_is_let_go_when_the_search_breaks(tmp_path):
    with pytest.raises(ZeroDivisionError), hold(tmp_path / "study.lock"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
