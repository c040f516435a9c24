import subprocess
import sys

import pytest
import typer

from search.cluster.agreement import NodeError
from search.command import explain_errors

SCRIPT = """
import os, signal, time
import typer
from search.command import explain_errors

def main():
    with explain_errors("the same command"):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

typer.run(main)
"""


def test_an_interrupt_counts_although_a_shell_started_the_command_in_the_background():
    started = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-c", SCRIPT]
    answer = subprocess.run(started, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (130, "interrupted; the same command goes on from here\n")


def test_a_node_that_is_to_be_mended_ends_a_search_that_can_be_resumed(capsys):
    with pytest.raises(typer.Exit) as end, explain_errors("the same command with --resume"):
        raise NodeError("node 10.0.0.7 has other code")
    assert end.value.exit_code == 1
    said = "error: node 10.0.0.7 has other code; the same command with --resume goes on from here"
    assert capsys.readouterr().err == f"{said}\n"
