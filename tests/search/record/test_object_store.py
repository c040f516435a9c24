import errno
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from search.config.load import parse
from search.record.errors import StoreError
from search.record.lease import find_holder, hold
from search.record.object_store import Store
from search.record.remote import StoreSlot
from trainables.errors import InputError

HOLDER = """
import sys, time
from search.record.remote import StoreSlot
from search.record.object_store import Store
from search.record.lease import hold
url, machine, watch_s = sys.argv[1:]
try:
    with hold(StoreSlot(Store(url)), lambda _: None, machine=machine, beat_s=0.2, watch_s=float(watch_s)):
        print("held", flush=True)
        time.sleep(600)
except Exception as error:
    print(error)
"""


@pytest.fixture
def store(bucket):
    return Store(f"s3://{bucket}/studies/mine")


@pytest.fixture
def start(store, spawn):
    """Start a process that takes the store's lock."""

    def start(machine, *, watch_s=600.0):
        return spawn(
            [sys.executable, "-c", HOLDER, store.url, machine, str(watch_s)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        )

    return start


def hold_and_die(start):
    process = start("elsewhere")
    assert process.stdout.readline() == "held\n", process.stderr.read()
    process.kill()
    process.wait()


def test_an_object_is_created_once_and_swapped_only_for_what_is_there(store):
    assert store.read("a") is None
    assert not store.swap("a", b"0", b"1")
    assert store.create("a", b"1")
    assert not store.create("a", b"2")
    assert store.swap("a", b"1", b"2")
    assert not store.swap("a", b"1", b"3")
    assert store.read("a") == b"2"


def test_objects_are_listed_below_a_folder_and_change_their_version_with_their_content(store):
    for name in ("trial-1/2", "trial-1/1", "trial-10/1"):
        store.write(name, b"x")
    assert list(store.list("trial-1/")) == ["trial-1/1", "trial-1/2"]
    before = store.list()
    store.write("trial-1/1", b"y")
    assert {name for name, version in store.list().items() if version != before[name]} == {"trial-1/1"}
    store.delete(store.list("trial-1/"))
    assert list(store.list()) == ["trial-10/1"]


def test_files_travel_whole_empty_ones_too(store, tmp_path):
    files = {"models/a": b"", "models/b/c": os.urandom(100_000)}
    for name, content in files.items():
        (tmp_path / Path(name).name).write_bytes(content)
    store.upload({name: tmp_path / Path(name).name for name in files})
    store.download({name: tmp_path / "back" / name for name in files})
    assert {name: (tmp_path / "back" / name).read_bytes() for name in files} == files
    assert store.read_all(files) == files


def test_a_file_that_is_gone_here_is_not_taken_for_a_bucket(store, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.txt"):
        store.upload({"gone.txt": tmp_path / "gone.txt"})


def test_a_full_disk_here_is_not_taken_for_the_network(store, monkeypatch, tmp_path):
    import s3fs

    def fill(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(s3fs.S3FileSystem, "get", fill)
    with pytest.raises(OSError, match="No space left") as caught:
        store.download({"pack": tmp_path / "pack"})
    assert not isinstance(caught.value, StoreError)


@pytest.mark.parametrize("results", ["s3://", "s3:///prefix", "://bucket", "s3://bucket/x?versionId=1"])
def test_a_url_without_a_bucket_is_refused(results):
    with pytest.raises(InputError, match="expected a folder, or s3://BUCKET/PREFIX"):
        parse({"name": "x", "results": results})


def test_credentials_in_the_url_are_refused():
    with pytest.raises(InputError, match="leave the credentials out of the URL"):
        parse({"name": "x", "results": "s3://key:word@bucket/x"})


def test_a_bucket_that_is_not_there_is_named(store):
    missing = Store(store.url.replace("bucket-", "no-bucket-"))
    with pytest.raises(InputError, match=r"s3://no-bucket-.*: create the bucket, or correct its name"):
        missing.check()
    store.check()
    assert store.list() == {}


def test_without_credentials_the_variables_are_named(store, monkeypatch, tmp_path):
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(InputError, match="no credentials are set: set AWS_ACCESS_KEY_ID"):
        store.check()


def test_a_store_that_does_not_answer_ends_the_command(store, monkeypatch):
    import s3fs

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(InputError, match="check the address, AWS_ENDPOINT_URL and the network"):
            store.check()
        with pytest.raises(StoreError):
            store.read("a")


def test_a_missing_library_and_an_unknown_store_are_sentences(monkeypatch):
    with pytest.raises(InputError, match="no object store is known as nowhere://"):
        Store("nowhere://bucket/x").check()
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(InputError, match=r"s3:// needs a library .* pip install '\.\[cluster\]'"):
        Store("s3://bucket/x").check()


def test_a_local_study_imports_no_library_of_a_store():
    libraries = "{'s3fs', 'aiobotocore', 'botocore'}"
    program = f"import sys, search.run, search.commands.evaluate; print({libraries} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_living_holder_of_the_lock_is_refused_and_shown(store, start):
    holder = start("elsewhere")
    assert holder.stdout.readline() == "held\n"
    slot = StoreSlot(store)
    assert str(find_holder(slot)).startswith(f"process {holder.pid} on ")
    with pytest.raises(InputError, match=f"{store.url} is in use by process {holder.pid}"), hold(slot, print):
        pass


def test_a_heartbeat_continues_when_an_answer_was_lost(store, monkeypatch):
    slot = StoreSlot(store)
    assert slot.create(b"beat 0")

    def lose(*arguments):
        swap(*arguments)
        raise StoreError("no answer")

    swap = Store.swap
    monkeypatch.setattr(Store, "swap", lose)
    with pytest.raises(StoreError):
        slot.refresh(b"beat 1")
    monkeypatch.setattr(Store, "swap", swap)
    slot.refresh(b"beat 2")
    slot.refresh(b"beat 3")
    assert slot.read() == b"beat 3"
    store.write("study.lock", b"another's")
    slot.refresh(b"beat 4")
    assert slot.read() == b"another's"


def test_the_lock_of_a_machine_that_is_gone_is_taken_over_and_let_go(store, start):
    hold_and_die(start)
    slot, notes = StoreSlot(store), []
    with hold(slot, notes.append, watch_s=1.0):
        assert json.loads(store.read("study.lock"))["pid"] == os.getpid()
    assert len(notes) == 1
    assert find_holder(slot) is None
    assert store.list() == {}


def test_a_holder_that_slept_through_it_ends_and_leaves_the_lock(store, start):
    sleeper = start("elsewhere")
    assert sleeper.stdout.readline() == "held\n"
    sleeper.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, sleeper.pid, os.WSTOPPED)
    with hold(StoreSlot(store), print, watch_s=1.0):
        sleeper.send_signal(signal.SIGCONT)
        _, said = sleeper.communicate()
        assert sleeper.returncode == 1
        assert f"was taken over by process {os.getpid()}" in said
        assert json.loads(store.read("study.lock"))["pid"] == os.getpid()


def test_of_many_that_find_a_dead_holder_one_gets_the_lock(start):
    hold_and_die(start)
    racers = [start(f"machine {number}", watch_s=5.0) for number in range(4)]
    answers = [racer.stdout.readline() for racer in racers]
    assert answers.count("held\n") == 1
    holder = racers[answers.index("held\n")]
    assert all(f"process {holder.pid}" in answer for answer in answers if answer != "held\n")
