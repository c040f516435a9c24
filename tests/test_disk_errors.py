"""Each write of a study fails once: no record is wrong, a sentence says why, and the resumed study ends the same."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from search.config.yaml import read_yaml
from search.evaluation.model_file import check_files, load_record
from search.evaluation.openings import complete_entries, describe_openings
from search.record.journal import Journal
from trainables.pack_info import PACK_JSON

WRITES = ("write", "fsync", "openat", "rename", "mkdir", "unlink", "unlinkat", "rmdir", "symlink", "ftruncate")
ERRORS = ("EIO", "ENOSPC", "EROFS")
NUM_SAMPLED = int(os.environ.get("DISK_ERRORS", "30"))
"""Writes that fail, of some 250; DISK_ERRORS=1000 lets each of them fail, which takes 10 minutes."""


class Server:
    """Processes that write a study, one after the other, each watched by strace if that is wished."""

    def __init__(self, folder, source, spawn):
        self.folder, self.source, self.spawn, self.is_first = folder, source, spawn, True
        self.errors = (folder / "errors").open("w+")
        self.process = spawn(
            [sys.executable, "-m", "tests.writing"],
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def write(self, root, *options):
        """Write a study below a root; return the exit code, and what was said."""
        start = self.errors.seek(0, os.SEEK_END)
        root.mkdir(exist_ok=True)
        self.process.stdin.write(f"{root} {self.source} {self.folder / 'marks'}\n")
        self.process.stdin.flush()
        if self.is_first:
            self.is_first = False
        else:
            self._start(int(self.process.stdout.readline()), options)
        code = int(self.process.stdout.readline())
        self.errors.seek(start)
        return code, self.errors.read()

    def _start(self, number, options):
        """Continue a process that begins stopped, after strace is attached to it if options are given."""
        while Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] not in "Tt":
            time.sleep(0.01)
        if options:
            command = ["strace", "-y", "-s", "0", "-e", "signal=none", *options, "-p", str(number)]
            watcher = self.spawn(command, stderr=subprocess.PIPE, text=True)
            assert "attached" in (said := watcher.stderr.readline()), said
            os.kill(number, signal.SIGCONT)
            watcher.communicate()
        else:
            os.kill(number, signal.SIGCONT)

    def close(self):
        self.process.kill()
        self.process.wait()
        self.errors.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory, packed, spawn_for_module):
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    if os.geteuid() and scope.exists() and int(scope.read_text()):
        pytest.skip("strace may attach to any process only as root, or with kernel.yama.ptrace_scope = 0")
    source = json.loads((packed / PACK_JSON).read_text())["source"]
    server = Server(tmp_path_factory.mktemp("server"), source, spawn_for_module)
    try:
        assert server.write(server.folder / "first")[0] == 0
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def straight(server):
    """The end of a study that no error disturbed, and the number of every call of it that writes, by kind."""
    root, trace = server.folder / "straight", server.folder / "trace"
    code, said = server.write(root, "-o", str(trace), "-e", f"trace={','.join(WRITES)}")
    assert code == 0, said
    counted, points = Counter(), []
    for line in trace.read_text().splitlines():
        name = line.partition("(")[0]
        counted[name] += 1
        if f"{root}/" in line and (name != "openat" or "O_CREAT" in line or "O_RDWR" in line):
            points.append((name, counted[name]))
    return summarize(root), points


def summarize(root):
    """Return what two studies have in common that came to the same end."""
    folder = root / "deep" / "results" / "tiny"
    trials = Journal.read(folder / "study.journal", "tiny").load()
    choices = read_yaml(folder / "study.yaml")["evaluations"][-1]
    model = load_record(folder / "models" / "cnn-seed0.json")
    check_files(folder / "models", model)
    return (
        [(trial.number, trial.params, trial.epochs, trial.state, trial.reason) for trial in trials],
        {key: value for key, value in choices.items() if key not in ("chosen", "opened")},
        (model.retraining, model.sha256),
        sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if not path.name.startswith(".starting-")),
    )


def check_truth(folder):
    """Check that nothing half is taken for whole."""
    if folder.exists():
        evaluations = read_yaml(folder / "study.yaml")["evaluations"]
        journal = Journal.read(folder / "study.journal", "tiny")
        openings = journal.list_openings() if journal else []
        complete_entries(evaluations, openings)
        notes = describe_openings(evaluations, openings)
        assert not [note for note in notes if "removed" in note or "changed" in note]
        for path in folder.glob("models/*.json"):
            check_files(path.parent, load_record(path))


def fail_once(server, straight, name, number, error):
    root = server.folder / f"{name}-{number}"
    injected = f"inject={name}:error={error}:when={number}"
    code, said = server.write(root, "-o", os.devnull, "-e", f"trace={name}", "-e", injected)
    assert "Traceback" not in said
    assert code in (0, 1, 2), said
    assert code == 0 or said.startswith("error: "), said
    check_truth(root / "deep" / "results" / "tiny")
    again, said = server.write(root)
    assert again == 0, said
    assert summarize(root) == straight[0]
    shutil.rmtree(root)
    return code


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_write_that_fails_ends_in_a_sentence_and_then_in_the_same_study(server, straight):
    draw = random.Random(0)
    points = draw.sample(straight[1], min(NUM_SAMPLED, len(straight[1])))
    codes = [fail_once(server, straight, *point, draw.choice(ERRORS)) for point in points]
    assert codes.count(0) < len(codes) / 4, "an error that is injected is an error that is met"
