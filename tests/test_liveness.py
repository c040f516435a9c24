"""A search that loses a process, is asked to end or has no room continues, or says how to continue."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.chaos import list_infrastructure
from benchmarks.processes import kill_tree
from search.record.journal import Journal
from search.record.trial import State

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parent.parent
TRIALS = 12
CONNECT = """
import sys
import typer
from search.cluster.nodes import connect
from search.commands.terminal import explain_errors
from search.config.load import parse

def main():
    with explain_errors("the same command"), connect(parse({"name": "x", "cluster": {"cpus": 1}})):
        print("it started", file=sys.stderr)

typer.run(main)
"""
GO_ON = "; the same command continues from here\n"


class Search:
    """A search with a closed form in place of training, and W&B offline, that is ended with the block."""

    def __init__(self, folder, trials=TRIALS):
        self.folder = folder
        command = ["-m", "benchmarks.chaos", "--drive", str(folder), "--trials", str(trials), "--infrastructure"]
        with (folder / "said").open("w") as said:
            self.process = subprocess.Popen(
                [sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=said, start_new_session=True
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        kill_tree(self.process)
        self.process.stdout.close()

    def wait_until_it_trains(self):
        trained = self.folder / "trained"
        while not trained.exists() or len(trained.read_text().splitlines()) < 3:
            assert self.process.poll() is None, self.finish()
            time.sleep(0.1)

    def finish(self):
        """Return the exit code and what was said on standard error."""
        code = self.process.wait(300)
        return code, (self.folder / "said").read_text()


def list_trials(folder):
    return Journal(folder / "study.journal", "chaos", note=print).load()


def await_end(processes, seconds):
    _, alive = psutil.wait_procs(processes, seconds)
    assert not alive


@pytest.mark.parametrize("kind", ["raylet", "gcs_server", "ray::DashboardAgent", "ray::RuntimeEnvAgent"])
def test_the_death_of_a_process_that_ray_needs_ends_a_search_resumable_and_leaves_no_process(tmp_path, kind):
    with Search(tmp_path) as search:
        search.wait_until_it_trains()
        family = psutil.Process(search.process.pid).children(recursive=True)
        [pid] = [pid for pid, name in list_infrastructure(search.process.pid) if name == kind]
        os.kill(pid, signal.SIGKILL)
        died = "gcs_server" if kind == "gcs_server" else "raylet"  # which ends when one of its agents does
        assert search.finish() == (1, f"error: Ray's process {died} died{GO_ON}")
        await_end(family, 60)
    assert list_trials(tmp_path)[-1].state is State.RUNNING
    with Search(tmp_path, trials=len(list_trials(tmp_path)) + 1) as search:
        assert search.finish() == (0, "")
    assert {trial.state for trial in list_trials(tmp_path)} <= {State.COMPLETE, State.PRUNED}


def test_the_search_survives_the_death_of_every_other_process(tmp_path):
    with Search(tmp_path, trials=30) as search:
        search.wait_until_it_trains()
        for name in ("wandb-core", "ray::ResourceTrainable"):
            pids = []
            while not pids:
                assert search.process.poll() is None, (name, search.finish())
                pids = [pid for pid, kind in list_infrastructure(search.process.pid) if kind.startswith(name)]
            os.kill(pids[0], signal.SIGKILL)
        code, said = search.finish()
    assert code == 0, said
    [line] = said.splitlines()
    assert line.startswith("Weights & Biases: ")
    assert {trial.state for trial in list_trials(tmp_path)} <= {State.COMPLETE, State.PRUNED}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_search_that_is_asked_to_end_leaves_no_process_and_can_be_resumed(tmp_path, number, code):
    with Search(tmp_path) as search:
        search.wait_until_it_trains()
        family = psutil.Process(search.process.pid).children(recursive=True)
        search.process.send_signal(number)
        ended, said = search.finish()
        assert ended == code
        assert said.splitlines()[-1].endswith(GO_ON.strip())
        await_end(family, 60)
    assert list_trials(tmp_path)[-1].state is State.RUNNING


def test_a_search_that_is_asked_to_end_with_all_its_processes_says_that_and_nothing_of_ray(tmp_path):
    """As systemd does it, and the system where a terminal is closed."""
    with Search(tmp_path) as search:
        search.wait_until_it_trains()
        driver = psutil.Process(search.process.pid)
        for process in [driver, *driver.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):  # the driver has ended it already
                process.terminate()
        code, said = search.finish()
    assert (code, said.splitlines()[-1]) == (143, f"ended by SIGTERM{GO_ON.strip()}")


def test_a_signal_while_ray_starts_is_an_announced_end(tmp_path):
    with Search(tmp_path) as search:
        while not any(kind == "gcs_server" for _, kind in list_infrastructure(search.process.pid)):
            assert search.process.poll() is None
        family = psutil.Process(search.process.pid).children(recursive=True)
        search.process.terminate()
        assert search.finish() == (143, f"ended by SIGTERM{GO_ON}")
        await_end(family, 60)


def run_connect(*before, **environment):
    return subprocess.run(
        [*before, sys.executable, "-c", CONNECT],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_temporary_folder_with_too_long_a_path_for_a_socket_is_refused_with_the_cure(tmp_path):
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    done = run_connect(TMPDIR=str(folder))
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("error: Ray cannot start on this machine (")
    assert line.endswith(": set TMPDIR to a path of at most 28 bytes")


@pytest.mark.parametrize("variable", ["TMPDIR", "HOME"])
def test_a_folder_that_ray_cannot_write_is_refused_with_the_cure_or_not_needed(variable):
    done = run_connect(**{variable: "/proc/1"})  # where no process can write
    if done.returncode == 0:
        assert done.stderr == "it started\n"
        return
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("error: Ray cannot start on this machine (")
    assert "must be folders that you may write to" in line


STUDY = """
name: tiny
data: {{path: sample, max_train_images: 200, val_fraction: 0.25, cache: {cache}}}
search: {{architectures: [cnn], num_trials: 12, max_epochs: 10, scheduler: none}}
space:
  shared: {{learning_rate: {{low: 1e-4, high: 1e-2, log: true}}, batch_size: 32}}
  cnn: {{filters: 8}}
evaluation: {{seeds: 2, max_train_images: all}}
tracking: {{mode: "off"}}
"""
FAIL_AT = """
import subprocess, sys
disk, study, words, place = sys.argv[1:]
place = f"{disk}/tiny/{place}"
command = [sys.executable, "-u", "-m", "search.run", study, "--plain", "--set", f"results={disk}"]
is_sound = True
with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as search:
    lines = []
    for line in search.stdout:
        lines.append(line)
        if is_sound and words in line:
            is_sound = False
            subprocess.run(["mount", "--bind", place, place], check=True)
            subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)
print(search.returncode, lines[-1], end="")
subprocess.run(["umount", place], check=True)
done = subprocess.run([*command, "--resume"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
assert done.returncode == 0, done.stdout
assert " FAIL " not in "".join(lines) + done.stdout, lines
print(done.returncode, "failed" in done.stdout)
"""


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("checkpoints", "epoch 1/10: accuracy"),
        ("study.journal", "epoch 1/10: accuracy"),
        ("models", "train loss"),
    ],
)
def test_a_part_of_a_study_that_turns_read_only_ends_it_resumable(run_on_small_disk, tmp_path, place, words):
    study = tmp_path / "study.yaml"
    study.write_text(STUDY.format(cache=tmp_path / "cache"))
    first, second = run_on_small_disk(FAIL_AT, "64m", study, words, place).splitlines()
    assert first.startswith("1 error: a disk failed ([Errno ")
    assert first.endswith("repair it, then the same command with --resume continues")
    assert second == "0 False"


@pytest.mark.parametrize("words", ["epoch 1/10: accuracy", "train loss"])
def test_sigterm_and_a_closed_pipe_end_search_and_evaluation_resumable(tmp_path, words):
    study = tmp_path / "study.yaml"
    study.write_text(STUDY.format(cache=tmp_path / "cache"))
    command = [sys.executable, "-u", "-m", "search.run", str(study), "--plain", "--set", f"results={tmp_path}"]

    def run(*more, end):
        """Run until the words are printed, then end it; return exit code and standard error."""
        with subprocess.Popen(
            [*command, *more], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as search:
            try:
                for line in search.stdout:
                    if words in line:
                        end(search)
                        break
                said = search.stderr.read()
                return search.wait(300), said
            finally:
                kill_tree(search)

    sentence = "ended by SIGTERM; the same command with --resume continues from here\n"
    assert run(end=lambda search: search.terminate()) == (143, sentence)
    assert run("--resume", end=lambda search: search.stdout.close()) == (141, "")
    done = subprocess.run([*command, "--resume"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
