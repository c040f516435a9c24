"""What is shipped of a study and what comes back, in a store that lives in memory, and in a real bucket."""

import dataclasses
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search.config.load import parse
from search.record.journal import Journal
from search.record.mirror import Mirror
from search.record.object_store import Store
from search.record.remote import JournalView, list_files, name_part, read_parts
from search.record.requests import Request, has_requests, send_request
from search.record.trial import State

SHIPPER = """
import json, sys
from pathlib import Path
from search.record.mirror import Mirror
from search.config.load import parse
from search.record.journal import Journal
config = parse(json.loads(sys.argv[1]))
copy = Mirror(config, print)
copy.restore()
config.directory.mkdir(parents=True, exist_ok=True)
journal = Journal(config.journal, config.name, note=print)
copy.start(lambda: None)
for line in sys.stdin:
    journal.add_trial("cnn", {}, {})
    copy._ship_journal()
    print("shipped", flush=True)
"""


CONFIG = parse({"name": "mine"})


def build_config(results, cache):
    data = dataclasses.replace(CONFIG.data, cache=str(cache))
    return dataclasses.replace(CONFIG, results=results, data=data)


@pytest.fixture
def results():
    """A place in memory."""
    return f"memory://{secrets.token_hex(8)}/studies"


def write(config, content):
    path = config.directory / "study.journal"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    lines=st.lists(st.binary(max_size=6).map(lambda line: line.replace(b"\n", b"") + b"\n"), max_size=8),
    cuts=st.lists(st.integers(0, 60), max_size=8),
    num_lost=st.integers(0, 3),
)
def test_shipped_parts_come_back_as_whole_lines_from_the_first_on(lines, cuts, num_lost):
    """The journal grows byte by byte, is looked at between any two, and the last puts may not have happened."""
    content = b"".join(lines)
    url = f"memory://{secrets.token_hex(8)}/studies"
    with tempfile.TemporaryDirectory() as folder:
        config = build_config(url, Path(folder) / "one")
        copy, store = Mirror(config, print), Store(config.url)
        for cut in [*sorted(min(cut, len(content)) for cut in cuts), len(content)]:
            write(config, content[:cut])
            copy._ship_journal()
            whole = content[: content.rfind(b"\n", 0, cut) + 1]
            assert read_parts(store) == whole
        parts = list(store.list("journal/"))
        store.delete(parts[len(parts) - num_lost :] if num_lost else [])
        fresh = build_config(url, Path(folder) / "two")
        Mirror(fresh, print).restore()
        path = fresh.directory / "study.journal"
        restored = path.read_bytes() if path.exists() else b""
        assert content.startswith(restored)
        assert restored == b"" or restored.endswith(b"\n")
        assert len(store.list("journal/")) <= len(lines)


def test_a_part_after_a_gap_does_not_count(results):
    store = Store(f"{results}/mine")
    store.create(name_part(0), b"one\n")
    store.create(name_part(8), b"three\n")
    assert read_parts(store) == b"one\n"


def test_local_lines_that_were_not_shipped_before_a_kill_are_kept_and_shipped(results, tmp_path):
    config = build_config(results, tmp_path)
    write(config, b"one\n")
    Mirror(config, print)._ship_journal()
    write(config, b"one\ntwo\nthr")
    again = Mirror(config, print)
    again.restore()
    again._ship_journal()
    assert (config.directory / "study.journal").read_bytes() == b"one\ntwo\nthr"
    assert read_parts(Store(config.url)) == b"one\ntwo\n"


def test_local_lines_are_dropped_if_another_machine_continued_without_them(results, tmp_path):
    here, there = build_config(results, tmp_path / "here"), build_config(results, tmp_path / "there")
    write(here, b"one\n")
    Mirror(here, print)._ship_journal()
    other = Mirror(there, print)
    other.restore()
    write(here, b"one\nlost\n")
    write(there, b"one\nother\n")
    other._ship_journal()
    Mirror(here, print).restore()
    assert (here.directory / "study.journal").read_bytes() == b"one\nother\n"


def test_a_part_whose_confirmation_was_lost_is_recognised_although_the_journal_has_grown(results, tmp_path):
    config = build_config(results, tmp_path)
    copy = Mirror(config, print)
    write(config, b"one\n")
    copy._ship_journal()
    Store(config.url).write(name_part(4), b"two\n")  # it was written, but the answer was lost
    write(config, b"one\ntwo\nthree\n")
    copy._ship_journal()
    assert read_parts(Store(config.url)) == b"one\ntwo\nthree\n"
    write(config, b"one\ntwo\nthree\nfour\n")
    copy._ship_journal()
    assert read_parts(Store(config.url)) == b"one\ntwo\nthree\nfour\n"


def test_files_are_shipped_when_they_change_and_brought_when_they_differ(results, tmp_path):
    here, there = build_config(results, tmp_path / "here"), build_config(results, tmp_path / "there")
    files = {"study.yaml": b"1", "report/figures/a.png": b"2", "wandb/run/x.wandb": b"3", "models/m.json": b"4"}
    for name, content in files.items():
        (here.directory / name).parent.mkdir(parents=True, exist_ok=True)
        (here.directory / name).write_bytes(content)
    for name in ("models/m.ckpt", "checkpoints/trial-1.ckpt", "study.yaml.partial", "study.lock"):
        (here.directory / name).parent.mkdir(exist_ok=True)
        (here.directory / name).write_bytes(b"not this")
    copy, store = Mirror(here, print), Store(here.url)
    copy._ship_files()
    assert "study.yaml" not in store.list(), "it waits for the lines of the journal that it rests on"
    copy.put("study.yaml")
    assert store.read_all(store.list()) == files
    store.write("report/figures/a.png", b"put there by somebody else")
    (here.directory / "study.yaml").write_bytes(b"longer")
    copy._ship_files()
    assert store.read("study.yaml") == b"1"
    copy.put("study.yaml")
    assert store.read("study.yaml") == b"longer"
    assert store.read("report/figures/a.png") == b"put there by somebody else", "what did not change is not sent again"
    Mirror(there, print).restore()
    brought = {path.relative_to(there.directory).as_posix(): path for path in there.directory.rglob("*")}
    assert {name: brought[name].read_bytes() for name in files} == {
        **files,
        "study.yaml": b"longer",
        "report/figures/a.png": b"put there by somebody else",
    }


def test_a_file_that_is_put_follows_the_lines_of_the_journal_that_it_rests_on(results, tmp_path):
    config = build_config(results, tmp_path)
    write(config, b"opened\n")
    (config.directory / "study.yaml").write_bytes(b"opened")
    copy, store = Mirror(config, print), Store(config.url)
    copy.start(lambda: write(config, b"opened\n"))
    copy.put("study.yaml")
    assert store.read("study.yaml") == b"opened"
    assert read_parts(store) == b"opened\n"
    copy.close()


def test_a_trials_end_is_shipped_at_once_and_its_checkpoints_are_deleted(results, tmp_path):
    config = build_config(results, tmp_path)
    store = Store(config.url)
    config.directory.mkdir(parents=True)
    journal = Journal(config.journal, "mine", note=print)
    for number in (0, 1):
        store.write(f"checkpoints/trial-{number}/mine/000001", b"x")
    copy = Mirror(config, pytest.fail)
    copy.start(lambda: None)
    trial = journal.add_trial("cnn", {}, {})
    metrics = {"epoch": 1, "accuracy": 0.5}
    journal.add_epoch(trial, metrics, device="cpu", elapsed_s=1.0)
    journal.end_trial(trial, State.COMPLETE, None, {})
    copy.on_end(trial)
    while "checkpoints/trial-0/mine/000001" in store.list():
        time.sleep(0.01)
    assert read_parts(store) == (config.directory / "study.journal").read_bytes()
    assert list(store.list("checkpoints/")) == ["checkpoints/trial-1/mine/000001"]
    copy.close()


def test_a_trial_that_ends_while_the_journal_is_shipped_keeps_its_checkpoint_until_its_end_is_shipped(
    results, tmp_path
):
    """Between reading the journal and sending it another trial ends; then the store is away."""
    config = build_config(results, tmp_path)
    store = Store(config.url)
    config.directory.mkdir(parents=True)
    journal = Journal(config.journal, "mine", note=print)
    trials = [journal.add_trial("cnn", {}, {}) for _ in range(2)]
    for trial in trials:
        store.write(f"checkpoints/trial-{trial.number}/mine/000001", b"x")
    copy = Mirror(config, print)
    asked = []
    is_away, is_back = threading.Event(), threading.Event()

    def end(trial):
        journal.end_trial(trial, State.FAIL, "loss is nan", {})
        copy.on_end(trial)

    def check():
        asked.append(len(asked))
        if len(asked) == 1:
            end(trials[1])
        elif not is_back.is_set():
            is_away.set()
            raise OSError("the store is away")

    end(trials[0])
    copy.start(check)
    assert is_away.wait(60)
    assert list(store.list("checkpoints/")) == ["checkpoints/trial-1/mine/000001"]
    is_back.set()
    copy.close()
    assert read_parts(store) == (config.directory / "study.journal").read_bytes()
    assert list(store.list("checkpoints/")) == []


def test_a_reader_sees_the_shipped_parts_as_they_arrive(results, tmp_path):
    config = build_config(results, tmp_path / "cache")
    write(config, b"one\n")
    copy = Mirror(config, print)
    copy._ship_journal()
    (tmp_path / "view").mkdir()
    view = JournalView(config.url, tmp_path / "view")
    assert (tmp_path / "view" / "study.journal").read_bytes() == b"one\n"
    write(config, b"one\ntwo\n")
    copy._ship_journal()
    view.refresh()
    assert (tmp_path / "view" / "study.journal").read_bytes() == b"one\ntwo\n"


def test_requests_reach_the_driver_once(results, tmp_path):
    config = build_config(results, tmp_path)
    mirror = Mirror(config, print)
    mirror._fetch_requests()
    assert not has_requests(config.directory)
    send_request(config.url, Request(ask={"cnn.filters": 16}, trial=None))
    mirror._fetch_requests()
    (path,) = (config.directory / "requests").iterdir()
    assert json.loads(path.read_text()) == {"ask": {"cnn.filters": 16}, "trial": None}
    path.unlink()  # as the driver does when the journal has it
    mirror._fetch_requests()
    assert not path.exists()
    assert list_files(Store(config.url)) == []
    again = Mirror(config, print)  # of a resumed search, whose journal names it
    again._fetch_requests()
    assert path.exists()


def test_two_drivers_never_go_on_with_one_record(bucket, tmp_path, spawn):
    """Even where the lock fails: the one that was asleep finds the next part taken, and ends."""

    def start(cache):
        plain = {"name": "mine", "results": f"s3://{bucket}/studies", "data": {"cache": str(tmp_path / cache)}}
        process = spawn(
            [sys.executable, "-c", SHIPPER, json.dumps(plain)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        )
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "shipped\n", process.stderr.read()
        return process

    sleeper = start("one")
    sleeper.send_signal(signal.SIGSTOP)
    store = Store(f"s3://{bucket}/studies/mine")
    before = read_parts(store)
    other = start("two")
    both = read_parts(store)
    assert both.startswith(before)
    assert len(both) > len(before)
    sleeper.send_signal(signal.SIGCONT)
    _, said = sleeper.communicate("\n")
    assert sleeper.returncode == 1
    assert "another driver continues" in said
    assert read_parts(store) == both
    other.communicate()
    assert other.returncode == 0
