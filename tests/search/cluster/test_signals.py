"""Signals and closed pipes, as a program of its own meets them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

START = """
import contextlib, ctypes, os, signal, sys, time
import typer
from search.commands.terminal import build_console, explain_errors
from search.cluster.signals import watch_signals

def stick():
    mutex = ctypes.create_string_buffer(64)
    lock = ctypes.CDLL(None).pthread_mutex_lock
    lock(mutex)
    with contextlib.suppress(BaseException):  # a signal may come before the next line
        print("stuck", flush=True)
        lock(mutex)  # for ever, and no signal interrupts it
    lock(mutex)

def wait():
    print("waiting", flush=True)
    time.sleep(10_000)

def main():
    with explain_errors("the same command with --resume"):
        {body}

typer.run(main)
"""
ENDS = {
    signal.SIGINT: (130, "interrupted; the same command with --resume continues from here\n"),
    signal.SIGTERM: (143, "ended by SIGTERM; the same command with --resume continues from here\n"),
    signal.SIGHUP: (129, "ended by SIGHUP; the same command with --resume continues from here\n"),
}


class Program:
    """A script that was started and is ended with the block."""

    def __init__(self, body, *before):
        code = START.replace("{body}", body)
        command = [*before, sys.executable, "-c", code]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.communicate()

    def read_line(self):
        return self._process.stdout.readline()

    def send(self, number):
        self._process.send_signal(number)

    def wait_until_it_has(self, number):
        """Wait until no signal of this kind is pending, because the system takes two of a kind for one."""
        status = Path(f"/proc/{self._process.pid}/status")
        while any(
            int(line.split()[1], 16) >> (number - 1) & 1
            for line in status.read_text().splitlines()
            if line.startswith(("SigPnd:", "ShdPnd:"))
        ):
            time.sleep(0.01)

    def finish(self):
        """Return exit code and standard error."""
        _, said = self._process.communicate(timeout=100)
        return self._process.returncode, said


@pytest.mark.parametrize("number", ENDS)
def test_a_signal_that_asks_for_the_end_is_answered_with_a_sentence_and_its_own_code(number):
    with Program("wait()") as program:
        program.read_line()
        program.send(number)
        assert program.finish() == ENDS[number]


@pytest.mark.parametrize("number", ENDS)
def test_a_signal_is_reported_as_the_end_whatever_error_it_causes(number):
    body = f"with watch_signals():\n            os.kill(os.getpid(), {int(number)})\n            raise RuntimeError"
    with Program(body) as program:
        assert program.finish() == ENDS[number]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_program_that_is_stuck_ends_all_the_same_when_its_grace_is_over(number):
    with Program("stick()") as program:
        program.read_line()
        program.send(number)
        assert program.finish() == ENDS[number]


@pytest.mark.parametrize("number", ENDS)
def test_a_second_signal_ends_a_program_that_is_stuck_at_once(number):
    with Program("import search.cluster.signals as s; s.GRACE_S = 10_000; stick()") as program:
        program.read_line()
        program.send(number)
        program.wait_until_it_has(number)
        program.send(signal.SIGINT)
        assert program.finish() == ENDS[number]


def test_a_second_signal_ends_a_program_that_is_ending_without_more_of_its_clean_up():
    body = """try:
            wait()
        finally:
            print("ending", flush=True)
            time.sleep(10_000)"""
    with Program(body) as program:
        assert program.read_line() == "waiting\n"
        program.send(signal.SIGINT)
        assert program.read_line() == "ending\n"
        program.send(signal.SIGINT)
        assert program.finish() == ENDS[signal.SIGINT]


def test_a_program_that_ends_at_once_leaves_no_process_that_it_started():
    body = (
        "import subprocess; print(subprocess.Popen(['sleep', '10000'], stdout=-3, stderr=-3).pid, flush=True); stick()"
    )
    with Program(body) as program:
        child = psutil.Process(int(program.read_line()))
        program.read_line()
        program.send(signal.SIGTERM)
        assert program.finish() == ENDS[signal.SIGTERM]
        child.wait(60)


def test_a_signal_that_nohup_ignores_stays_ignored():
    with Program("wait()", "sh", "-c", 'trap "" HUP; exec "$@"', "sh") as program:
        program.read_line()
        program.send(signal.SIGHUP)
        time.sleep(0.5)
        program.send(signal.SIGTERM)
        assert program.finish() == ENDS[signal.SIGTERM]


@pytest.mark.parametrize("how", ["typer.echo(1)", "build_console().print(1)", "print(1)"])
def test_a_closed_pipe_ends_a_command_without_a_word(how):
    code = START.replace("{body}", f"for _ in range(100_000): {how}")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(100) == 141


def test_output_that_is_first_written_at_the_end_into_a_closed_pipe_ends_without_a_word():
    reader, writer = os.pipe()
    os.close(reader)
    code = START.replace("{body}", "print(1)")
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
