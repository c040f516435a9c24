"""A study in a real PostgreSQL, and what a URL may be."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from search.config import dump, parse
from search.journal import Journal, State
from search.prepare import check_absent
from search.storage import PASSWORD, StorageLost, read_storage
from search.study import Study
from trainables.errors import InputError

ROOT = Path(__file__).parents[2]
SECRET = "s3cret{}%/@"
SETTINGS = {
    "name": "shared",
    "search": {
        "num_trials": 10,
        "max_epochs": 4,
        "reduction_factor": 2,
        "num_startup_trials": 3,
        "scheduler": "asha",
        "seed": 3,
    },
    "space": {"shared": {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}}},
}
SEARCHER = """
import sys
sys.path.insert(0, sys.argv[1])
from test_storage import open_study, run
run(open_study(sys.argv[2]), int(sys.argv[3]))
"""


def open_study(place):
    return Study(parse(SETTINGS), Journal(place, "shared", note=print))


def run(study, limit=None):
    """Train a closed form, one trial after the other; stand still for ever after `limit` epochs."""
    trained = 0
    while (trial := study.ask()) is not None:
        stop = False
        while not stop:
            if trained == limit:
                sys.stdout.write("standing\n")
                sys.stdout.flush()
                time.sleep(600)
            epoch = len(trial.epochs) + 1
            accuracy = 1 - trial.params["learning_rate"] / epoch
            metrics = {"epoch": epoch, "accuracy": accuracy, "seconds": 1.0, "images_per_second": 1.0}
            stop = study.report(trial.number, metrics, "cpu")
            trained += 1


def find_program(name):
    found = [*sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True), shutil.which(name)]
    return found[0] and Path(found[0])


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory):
    """The URL of a PostgreSQL of our own, without the password, and a function that sends its server a signal."""
    pytest.importorskip("psycopg", reason="needs the extra `database`")
    if (initdb := find_program("initdb")) is None:
        pytest.skip("needs Debian's postgresql")
    folder = tmp_path_factory.mktemp("postgresql")
    folder.chmod(0o755)
    for parent in folder.parents[:3]:  # pytest's own folders let nobody else in
        if parent.name.startswith("pytest"):
            parent.chmod(0o711)
    (folder / "password").write_text(SECRET)
    (folder / "password").chmod(0o644)
    user = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        user = {"user": "postgres", "group": "postgres", "extra_groups": ()}
        shutil.chown(folder, "postgres", "postgres")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **user}
    login = ["--username", "someone", "--pwfile", folder / "password", "--auth", "scram-sha-256"]
    subprocess.run([initdb, "--pgdata", folder / "data", "--no-sync", *login], check=True, **quiet)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = ["-c", "listen_addresses=127.0.0.1", "-c", f"port={port}", "-c", f"unix_socket_directories={folder}"]
    with subprocess.Popen([initdb.with_name("postgres"), "-D", folder / "data", *settings], **quiet) as server:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"postgresql://someone@127.0.0.1:{port}"
        server.send_signal(signal.SIGINT)  # disconnects everybody


@pytest.fixture
def database(postgresql, monkeypatch, request):
    """The URL of an empty database."""
    import psycopg

    monkeypatch.setenv(PASSWORD, SECRET)
    name = f"test_{abs(hash(request.node.name))}"
    with psycopg.connect(f"{postgresql}/postgres", password=SECRET, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{postgresql}/{name}"


def summarize(study):
    return [(t.number, t.architecture, t.params, t.epochs, t.state, t.reason) for t in study.trials]


def test_a_study_in_a_database_equals_one_in_a_file(database, tmp_path):
    in_file, in_database = open_study(tmp_path / "study.journal"), open_study(database)
    run(in_file)
    run(in_database)
    in_database._journal.close()
    recorded = Journal.read(database, "shared")
    assert summarize(in_database) == summarize(in_file)
    assert [(t.number, t.params, t.epochs, t.state) for t in recorded.load()] == [
        (t.number, t.params, t.epochs, t.state) for t in in_file.trials
    ]
    assert recorded.list_epochs() == Journal.read(tmp_path / "study.journal", "shared").list_epochs()
    recorded.close()


@pytest.mark.parametrize("limit", [2, 9])
def test_a_killed_search_goes_on_as_if_it_had_not_been(database, tmp_path, limit):
    straight = open_study(tmp_path / "study.journal")
    run(straight)
    command = [sys.executable, "-c", SEARCHER, Path(__file__).parent, database, str(limit)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as searcher:
        assert searcher.stdout.readline() == "standing\n"
        reader = Journal.read(database, "shared")
        assert sum(len(trial.epochs) for trial in reader.load()) == limit
        assert State.RUNNING in {trial.state for trial in reader.load()}
        reader.close()
        searcher.kill()
    killed = open_study(database)
    run(killed)
    killed._journal.close()
    assert summarize(killed) == summarize(straight)


def test_a_study_that_is_being_searched_is_refused_to_others_and_another_one_is_not(database, monkeypatch):
    monkeypatch.setattr("search.storage.LOCK_PATIENCE_S", 0.2)
    first = Journal(database, "shared", note=print)
    with pytest.raises(InputError, match="the study shared in the database is being searched"):
        Journal(database, "shared", note=print)
    Journal(database, "other", note=print).close()
    first.close()
    Journal(database, "shared", note=print).close()


def test_a_reader_writes_nothing(database):
    open_study(database)._journal.close()
    reader = Journal.read(database, "shared")
    with pytest.raises(StorageLost):
        reader.add_change(["something"])
    reader.close()
    assert Journal.read(database, "nobody") is None


def test_a_search_that_loses_its_connection_ends_and_goes_on_later(database, tmp_path):
    import psycopg

    study = open_study(database)
    trial = study.ask()
    with psycopg.connect(database, password=SECRET, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = ''"
            " AND pid <> pg_backend_pid() AND datname = current_database()"
        )
    with pytest.raises(StorageLost):
        run(study)
    study._journal.close()
    resumed, straight = open_study(database), open_study(tmp_path / "study.journal")
    assert [known.number for known in resumed.trials] == [trial.number]
    run(resumed)
    run(straight)
    resumed._journal.close()
    assert summarize(resumed) == summarize(straight)


def test_a_study_of_somebody_else_with_the_same_name_is_not_gone_on_with(database, tmp_path):
    config = parse({**SETTINGS, "storage": database, "results": str(tmp_path)})
    check_absent(config, resume=False)
    open_study(database)._journal.close()
    with pytest.raises(InputError, match="the database holds a study shared already"):
        check_absent(config, resume=True)
    config.directory.mkdir()
    check_absent(config, resume=True)


def test_the_password_stands_nowhere_but_in_the_environment(database, monkeypatch):
    assert SECRET not in str(dump(parse({**SETTINGS, "storage": database})))
    monkeypatch.setenv(PASSWORD, "wrong-secret")
    with pytest.raises(InputError, match=r"cannot use the database 127\.0\.0\.1/test_.*password") as refusal:
        Journal(database, "shared", note=print)
    assert "wrong-secret" not in str(refusal.value)
    assert refusal.value.__suppress_context__


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://someone:s3cret@host/db", "leave the password out of the URL"),
        ("mysql://someone@host/db?password=s3cret", "leave the password out of the URL"),
        ("sqlite:///s3cret.db", "expected postgresql://"),
        ("postgresql://s3cret@host", "expected postgresql://"),
        ("postgresql://[s3cret/db", "expected postgresql://"),
        ("s3cret", "expected postgresql://"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_being_repeated(url, message):
    with pytest.raises(InputError, match=message) as refusal:
        parse({**SETTINGS, "storage": url})
    assert "s3cret" not in str(refusal.value)


def test_a_server_that_is_not_there_is_one_sentence():
    pytest.importorskip("psycopg", reason="needs the extra `database`")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(InputError, match=r"cannot use the database 127\.0\.0\.1/db: ") as refusal:
        read_storage(f"postgresql://someone@127.0.0.1:{port}/db")
    assert "\n" not in str(refusal.value)
