import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables import checkpoint


def build_state(epoch: int) -> dict[str, Any]:
    history = [{"epoch": number, "loss": 1.0 / number} for number in range(1, epoch + 1)]
    return {"model": {"weight": torch.full((64, 64), float(epoch))}, "epoch": epoch, "history": history}


def load_epoch(path: Path) -> int | None:
    state = checkpoint.load(path)
    if state is None:
        return None
    assert torch.equal(state["model"]["weight"], build_state(state["epoch"])["model"]["weight"])
    assert state["history"] == build_state(state["epoch"])["history"]
    return int(state["epoch"])


def test_a_saved_state_is_loaded_and_missing_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "trials" / "0" / "state"
    checkpoint.save(path, build_state(3))
    assert load_epoch(path) == 3


def test_without_a_file_there_is_no_state(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path / "state") is None


def test_the_previous_file_is_kept_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "state"
    for epoch in (1, 2, 3):
        checkpoint.save(path, build_state(epoch))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["state", "state.previous"]
    path.unlink()
    assert load_epoch(path) == 2


@pytest.mark.parametrize("kept", [0, 16, 32, 1000, -1])
def test_a_truncated_file_is_noticed_and_the_previous_one_is_used(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "state"
    checkpoint.save(path, build_state(1))
    checkpoint.save(path, build_state(2))
    path.write_bytes(path.read_bytes()[:kept])
    assert load_epoch(path) == 1


@pytest.mark.parametrize("position", [0, 31, 32, 5000, -1])
def test_an_altered_byte_is_noticed_and_the_previous_file_is_used(tmp_path: Path, position: int) -> None:
    path = tmp_path / "state"
    checkpoint.save(path, build_state(1))
    checkpoint.save(path, build_state(2))
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    assert load_epoch(path) == 1


def test_between_its_two_renames_a_state_is_found_where_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "state"
    checkpoint.save(path, build_state(1))
    checkpoint.save(path, build_state(2))
    path.rename(path.with_name("state.partial"))
    assert load_epoch(path) == 2


def test_when_both_are_damaged_there_is_no_state(tmp_path: Path) -> None:
    path = tmp_path / "state"
    checkpoint.save(path, build_state(1))
    checkpoint.save(path, build_state(2))
    path.write_bytes(b"")
    path.with_name("state.previous").write_bytes(b"")
    assert checkpoint.load(path) is None


def test_a_partial_file_left_by_a_kill_is_never_read(tmp_path: Path) -> None:
    path = tmp_path / "state"
    checkpoint.save(path, build_state(1))
    path.with_name("state.partial").write_bytes(b"half of epoch two")
    assert load_epoch(path) == 1
    checkpoint.save(path, build_state(2))
    assert load_epoch(path) == 2


def test_objects_other_than_tensors_and_containers_are_not_unpickled(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "state", {"path": tmp_path})
    with pytest.raises(Exception, match="weights_only"):
        checkpoint.load(tmp_path / "state")


KILL_AT_EVERY_LINE = """
import itertools, os, sys
from pathlib import Path

from trainables import checkpoint

def save_and_die(path, last_line):
    lines = itertools.count(1)
    def trace(frame, event, _):
        if frame.f_code.co_filename == checkpoint.__file__:
            if event == "line" and next(lines) == last_line:
                os._exit(9)
            return trace
    sys.settrace(trace)
    checkpoint.save(path, {"epoch": 3})
    os._exit(0)

for last_line in itertools.count(1):
    path = Path(sys.argv[1]) / str(last_line) / "state"
    checkpoint.save(path, {"epoch": 1})
    checkpoint.save(path, {"epoch": 2})
    child = os.fork() or save_and_die(path, last_line)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    found = checkpoint.load(path)["epoch"]
    checkpoint.save(path, {"epoch": 4})
    print(code, found, checkpoint.load(path)["epoch"])
    if code == 0:
        break
"""


def test_a_kill_between_any_two_lines_leaves_the_old_or_the_new_state(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILL_AT_EVERY_LINE, str(tmp_path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    *killed, complete = [tuple(map(int, line.split())) for line in output.splitlines()]
    assert complete == (0, 3, 4)
    assert len(killed) > 20
    assert {code for code, _, _ in killed} == {9}
    assert {after for _, _, after in killed} == {4}
    found = [epoch for _, epoch, _ in killed]
    assert found == sorted(found)
    assert set(found) == {2, 3}


def test_on_a_full_disk_the_last_whole_state_is_kept_and_saving_continues_when_there_is_room(
    run_on_small_disk: Callable[..., str],
) -> None:
    script = (
        "import errno, pathlib, subprocess, sys, torch\n"
        "from trainables.checkpoint import load, save\n"
        "path = pathlib.Path(sys.argv[1], 'state')\n"
        "def build(epoch): return {'epoch': epoch, 'weight': torch.full((64, 64), float(epoch))}\n"
        "for epoch in (1, 2): save(path, build(epoch))\n"
        "try: save(path, build(3))\n"
        "except OSError as error: print(error.errno == errno.ENOSPC, load(path)['epoch'])\n"
        "subprocess.run(['mount', '-o', 'remount,size=1m', sys.argv[1]], check=True)\n"
        "save(path, build(3))\n"
        "print(load(path)['epoch'], sorted(file.name for file in path.parent.iterdir()))\n"
    )
    assert run_on_small_disk(script, "52k") == "True 2\n3 ['state', 'state.previous']\n"
