import subprocess
import sys

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
