import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from search.cluster.job import NodeError
from search.commands.terminal import check_target, explain_errors
from search.record.errors import StorageLost
from trainables.durable import write_file
from trainables.errors import InputError

SCRIPT = """
import os, signal, time
import typer
from search.commands.terminal import explain_errors
from search.record.errors import StorageLost

def main():
    with explain_errors("the same command"):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

typer.run(main)
"""


def test_an_interrupt_counts_although_a_shell_started_the_command_in_the_background():
    started = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-c", SCRIPT]
    answer = subprocess.run(started, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (130, "interrupted; the same command continues from here\n")


def test_a_lost_database_ends_a_command_that_has_nothing_to_continue(capsys):
    with pytest.raises(typer.Exit) as end, explain_errors():
        raise StorageLost("server closed the connection")
    assert end.value.exit_code == 1
    said = "error: the database was lost (server closed the connection); the same command continues from here"
    assert capsys.readouterr().err == f"{said}\n"


def test_too_little_memory_is_one_sentence(capsys):
    with pytest.raises(typer.Exit) as end, explain_errors():
        raise MemoryError
    assert end.value.exit_code == 1
    said = "error: there is not enough memory; free some, then the same command continues"
    assert capsys.readouterr().err == f"{said}\n"


def test_a_node_that_is_to_be_mended_ends_a_search_that_can_be_resumed(capsys):
    with pytest.raises(typer.Exit) as end, explain_errors("the same command with --resume"):
        raise NodeError("node 10.0.0.7 has other code")
    assert end.value.exit_code == 1
    said = "error: node 10.0.0.7 has other code; the same command with --resume continues from here"
    assert capsys.readouterr().err == f"{said}\n"


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "error: no space left ([Errno 28] No space left on device: 'here'); free some space, then"),
        (errno.EDQUOT, "error: no space left ([Errno 122] Disk quota exceeded: 'here'); free some space, then"),
        (errno.EIO, "error: a disk failed ([Errno 5] Input/output error: 'here'); repair it, then"),
        (errno.EROFS, "error: a disk failed ([Errno 30] Read-only file system: 'here'); repair it, then"),
        (errno.ESTALE, "error: a disk failed ([Errno 116] Stale file handle: 'here'); repair it, then"),
        (errno.EPERM, "error: a disk failed ([Errno 1] Operation not permitted: 'here'); repair it, then"),
    ],
)
def test_any_fault_of_a_disk_is_a_sentence(capsys, number, said):
    with pytest.raises(typer.Exit) as end, explain_errors("the same command"):
        raise OSError(number, os.strerror(number), "here")
    assert end.value.exit_code == 1
    assert capsys.readouterr().err == f"{said} the same command continues\n"


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.with_name("comparison.csv.partial").mkdir()])
def test_a_folder_in_the_way_of_a_file_is_named(capsys, tmp_path, make):
    target = tmp_path / "comparison.csv"
    make(target)
    with pytest.raises(typer.Exit) as end, explain_errors("the same command"):
        write_file(target, b"x")
    assert end.value.exit_code == 2
    assert re.fullmatch(
        r"error: .*comparison\.csv.* is in the way \(.*\): remove it or rename it\n", capsys.readouterr().err
    )


def test_a_file_in_the_way_of_a_folder_is_named(capsys, tmp_path):
    (tmp_path / "report").touch()
    with pytest.raises(typer.Exit) as end, explain_errors("the same command"):
        write_file(tmp_path / "report" / "report.html", b"x")
    assert end.value.exit_code == 2
    assert "report is in the way" in capsys.readouterr().err


def test_an_error_that_no_disk_caused_is_not_turned_into_a_sentence():
    with pytest.raises(FileNotFoundError), explain_errors("the same command"):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")


def test_a_folder_that_may_not_be_entered_is_no_failed_disk(monkeypatch, tmp_path):
    def refuse(self):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "exists", refuse)  # as Python up to 3.13 does
    with pytest.raises(InputError, match=r"^cannot write .*t\.csv \(Permission denied\): write elsewhere$"):
        check_target(tmp_path / "t.csv")
