"""A study in a real PostgreSQL and in a real MariaDB, which speaks MySQL, and what a URL may be."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from sqlalchemy import make_url

from search.config.load import dump, parse
from search.config.urls import DRIVERS, PASSWORD
from search.record.errors import StorageLost
from search.record.folder import check_absent
from search.record.journal import Journal
from search.record.metric import Metric
from search.record.object_store import Store
from search.record.storage import close_storage, read_storage
from search.record.trial import State
from search.study import Study
from trainables.errors import InputError

ROOT = Path(__file__).parents[3]
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


def open_study(place, metric="accuracy"):
    config = parse({**SETTINGS, "search": {**SETTINGS["search"], "metric": metric}})
    return Study(config, Journal(place, "shared", note=print, metric=Metric(metric, config.search.sign)))


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
            metrics = {"epoch": epoch, "accuracy": accuracy, "loss": 1 - accuracy}
            metrics |= {"seconds": 1.0, "images_per_second": 1.0}
            stop = study.report(trial.number, metrics, "cpu")
            trained += 1


def find_program(name):
    found = [*sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True), shutil.which(name)]
    return found[0] and Path(found[0])


class PostgreSQL:
    """A server of our own."""

    def __init__(self, folder):
        self._connect = pytest.importorskip("psycopg", reason="needs the extra `database`").connect
        if (initdb := find_program("initdb")) is None:
            pytest.skip("needs Debian's postgresql")
        (folder / "password").write_text(SECRET)
        (folder / "password").chmod(0o644)
        self.account = get_account(folder, "postgres")
        login = ["--username", "someone", "--pwfile", folder / "password", "--auth", "scram-sha-256"]
        command = [initdb, "--pgdata", folder / "data", "--no-sync", *login]
        subprocess.run(command, check=True, cwd=folder, **QUIET, **self.account)
        self.port = find_port()
        self.url = f"postgresql://someone@127.0.0.1:{self.port}"
        settings = [f"port={self.port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={folder}"]
        options = [word for setting in settings for word in ("-c", setting)]
        self.command = [initdb.with_name("postgres"), "-D", folder / "data", *options]
        self.stop_signal = signal.SIGINT  # disconnects everybody

    def execute(self, statement, database="postgres"):
        with self._connect(f"{self.url}/{database}", password=SECRET, autocommit=True) as connection:
            connection.execute(statement)

    def cut(self, database):
        self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = ''"
            " AND pid <> pg_backend_pid() AND datname = current_database()",
            database,
        )


class MySQL:
    """A server of our own; Debian's MySQL is MariaDB."""

    def __init__(self, folder):
        self._connect = pytest.importorskip("pymysql", reason="needs the extra `database`").connect
        server, install = find_program("mariadbd"), find_program("mariadb-install-db")
        if server is None or install is None:
            pytest.skip("needs Debian's mariadb-server")
        escaped = SECRET.replace("'", "''")
        grant = f"CREATE USER someone@'127.0.0.1' IDENTIFIED BY '{escaped}'; GRANT ALL ON *.* TO someone@'127.0.0.1';"
        (folder / "grant.sql").write_text(grant.replace("; ", ";\n"))
        self.account = get_account(folder, "mysql")
        place = ["--no-defaults", f"--datadir={folder / 'data'}"]
        subprocess.run([install, *place, "--skip-test-db"], check=True, cwd=folder, **QUIET, **self.account)
        self.port = find_port()
        self.url = f"mysql://someone@127.0.0.1:{self.port}"
        where = [f"--port={self.port}", "--bind-address=127.0.0.1", f"--socket={folder / 'socket'}"]
        files = [f"--pid-file={folder / 'pid'}", f"--init-file={folder / 'grant.sql'}", "--skip-name-resolve"]
        self.command = [server, *place, *where, *files]
        self.stop_signal = signal.SIGTERM

    def execute(self, statement, database=None):
        login = {"host": "127.0.0.1", "port": self.port, "user": "someone", "password": SECRET}
        with self._connect(**login, database=database) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall()

    def cut(self, database):
        listed = "SELECT id FROM information_schema.processlist WHERE id <> connection_id() AND db = database()"
        for (connection,) in self.execute(listed, database):
            self.execute(f"KILL {connection}")


SERVERS = {"postgresql": PostgreSQL, "mysql": MySQL}
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def get_account(folder, name):
    """Return as whom to run a server, which refuses to be root, and give that account the folder."""
    if os.geteuid() != 0:
        return {}
    shutil.chown(folder, name, name)
    return {"user": name, "group": name, "extra_groups": ()}


def find_port():
    """Return a free port below those that the system itself gives to any connection that is opened meanwhile."""
    while True:
        port = 20_000 + secrets.randbelow(10_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def answers(server):
    try:
        server.execute("SELECT 1")
    except Exception:  # noqa: BLE001 each library has errors of its own, and a server that starts refuses too
        return False
    return True


@pytest.fixture(scope="module", params=SERVERS)
def server(request, tmp_path_factory, spawn_for_module):
    """A server of each kind, running."""
    folder = tmp_path_factory.mktemp(request.param)
    folder.chmod(0o755)
    for parent in folder.parents[:3]:  # pytest's own folders are closed to other users
        if parent.name.startswith(("pytest", "popen")):  # pytest-xdist's are between them
            parent.chmod(0o711)
    server = SERVERS[request.param](folder)
    log = folder / "log"
    with log.open("wb") as output:
        process = spawn_for_module(server.command, cwd=folder, stdout=output, stderr=output, **server.account)
    while not answers(server):
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    yield server
    process.send_signal(server.stop_signal)
    process.wait()


@pytest.fixture
def database(server, monkeypatch, request):
    """The URL of an empty database."""
    monkeypatch.setenv(PASSWORD, SECRET)
    name = f"test_{abs(hash(request.node.name))}"
    server.execute(f"CREATE DATABASE {name}")
    return f"{server.url}/{name}"


def summarize(study):
    return [(t.number, t.architecture, t.params, t.epochs, t.state, t.reason) for t in study.trials]


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_a_study_in_a_database_equals_one_in_a_file(database, tmp_path, metric):
    in_file, in_database = open_study(tmp_path / "study.journal", metric), open_study(database, metric)
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

    stored = read_storage(database)
    plain = optuna.load_study(study_name="shared", storage=stored)
    finished = [trial for trial in in_file.trials if trial.state is State.COMPLETE]
    assert plain.metric_names == [metric]
    assert plain.best_value == max(finished, key=lambda trial: trial.score).get_peak()[0]
    close_storage(stored)
    if metric == "loss":
        with pytest.raises(InputError, match="compares by loss"):
            open_study(database)


BATCHES = {"low": 16, "high": 128}
CHANGES = {
    "choices": ({"choice": [16, 32, 64]}, {"choice": [64, 128]}),
    "scale": (BATCHES, {**BATCHES, "log": True}),
    "kind": ({"choice": [16, 32, 64]}, BATCHES),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_space_that_was_changed_continues_in_a_database_as_in_a_file(database, tmp_path, change):
    places, found = {"file": tmp_path / "study.journal", "database": database}, {}
    for kind, place in places.items():
        for num_trials, spec in zip((5, 10, 12), (*CHANGES[change], CHANGES[change][1]), strict=True):
            space = {"shared": {**SETTINGS["space"]["shared"], "batch_size": spec}}
            search = {**SETTINGS["search"], "num_trials": num_trials}
            study = Study(parse({**SETTINGS, "search": search, "space": space}), Journal(place, "shared", note=print))
            run(study)
            study._journal.close()
        found[kind] = summarize(study)
    assert len(found["database"]) == 12
    assert found["database"] == found["file"]
    stored = [read_storage(place) for place in places.values()]
    plain = [optuna.load_study(study_name="shared", storage=storage).get_trials() for storage in stored]
    close_storage(stored[1])
    assert [trial.distributions for trial in plain[1]] == [trial.distributions for trial in plain[0]]
    assert [trial.params for trial in plain[1]] == [trial.params for trial in plain[0]]
    batches = {str(trial.distributions[f"{trial.user_attrs['architecture']}.batch_size"]) for trial in plain[1]}
    assert len(batches) == 2


@pytest.mark.parametrize("limit", [2, 9])
def test_a_killed_search_continues_as_if_it_had_not_been(database, tmp_path, limit, spawn):
    straight = open_study(tmp_path / "study.journal")
    run(straight)
    command = [sys.executable, "-c", SEARCHER, Path(__file__).parent, database, str(limit)]
    searcher = spawn(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert searcher.stdout.readline() == "standing\n"
    reader = Journal.read(database, "shared")
    assert sum(len(trial.epochs) for trial in reader.load()) == limit
    assert State.RUNNING in {trial.state for trial in reader.load()}
    reader.close()
    searcher.kill()
    searcher.wait()
    killed = open_study(database)
    run(killed)
    killed._journal.close()
    assert summarize(killed) == summarize(straight)


def test_a_study_that_is_being_searched_is_refused_to_others_and_another_one_is_not(database, monkeypatch):
    monkeypatch.setattr("search.record.database.LOCK_PATIENCE_S", 0.2)
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


def test_a_search_that_loses_its_connection_ends_and_continues_later(server, database, tmp_path):
    study = open_study(database)
    trial = study.ask()
    server.cut(database.rpartition("/")[2])
    with pytest.raises(StorageLost):
        run(study)
    study._journal.close()
    resumed, straight = open_study(database), open_study(tmp_path / "study.journal")
    assert [known.number for known in resumed.trials] == [trial.number]
    run(resumed)
    run(straight)
    resumed._journal.close()
    assert summarize(resumed) == summarize(straight)


def test_a_study_of_another_owner_with_the_same_name_is_not_continued(database, tmp_path):
    config = parse({**SETTINGS, "storage": database, "results": str(tmp_path)})
    check_absent(config, resume=False)
    open_study(database)._journal.close()
    with pytest.raises(InputError, match="the database holds a study shared"):
        check_absent(config, resume=True)
    config.directory.mkdir()
    check_absent(config, resume=True)


def test_a_new_head_continues_with_a_database_and_a_bucket(database, tmp_path, bucket):
    results, cache = f"s3://{bucket}/studies", {"cache": str(tmp_path / "cache")}
    config = parse({**SETTINGS, "storage": database, "results": results, "data": cache})
    open_study(database)._journal.close()
    with pytest.raises(InputError, match=f"shared, but {results}/shared does not exist"):
        check_absent(config, resume=True)
    Store(config.url).write("study.yaml", b"name: shared")
    check_absent(config, resume=True)
    with pytest.raises(InputError, match=f"{results}/shared exists"):
        check_absent(config, resume=False)


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


@pytest.mark.parametrize(("kind", "library"), [("postgresql", "psycopg"), ("mysql", "pymysql")])
def test_a_server_that_is_not_there_is_one_sentence(kind, library):
    pytest.importorskip(library, reason="needs the extra `database`")
    with pytest.raises(InputError, match=r"cannot use the database 127\.0\.0\.1/db: ") as refusal:
        read_storage(f"{kind}://someone@127.0.0.1:{find_port()}/db")
    assert "\n" not in str(refusal.value)


def test_requests_are_recorded_once_in_a_database(database):
    study = open_study(database)
    study.ask()
    for _ in range(2):
        study.enqueue({"cnn.learning_rate": 0.02}, "first")
    assert study.stop_trial(0)
    for _ in range(2):
        study.stop("second")
    study._journal.close()
    resumed = open_study(database)
    told = [(trial.state, trial.enqueued, trial.reason) for trial in resumed.trials]
    assert told == [
        (State.FAIL, None, "stopped by hand after 0 epochs"),
        (State.RUNNING, {"cnn.learning_rate": 0.02}, None),
    ]
    assert resumed.halt_reason == "it was stopped by hand, with search.num_trials = 10"
    assert [stop.request for stop in resumed._journal.list_stops()] == ["second"]
    resumed._journal.close()


def test_an_enqueued_point_in_a_database_is_trained_and_what_plain_optuna_asked_counts_as_failed(database):
    run_some = open_study(database)
    first = run_some.ask()
    run_some._journal.close()
    plain = optuna.load_study(study_name="shared", storage=_open_plainly(database))
    plain.enqueue_trial({"cnn.learning_rate": 0.02})
    plain.enqueue_trial({"cnn.learning_rate": 5.0})
    plain.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING))
    study = open_study(database)
    run(study)
    study._journal.close()
    recorded = Journal.read(database, "shared")
    trials = recorded.load()
    recorded.close()
    assert [trial.number for trial in trials] == list(range(10))
    assert trials[first.number].state in (State.COMPLETE, State.PRUNED)
    assert (trials[1].params["learning_rate"], trials[1].state) == (0.02, study.trials[1].state)
    assert "is outside the space" in trials[2].reason
    assert (trials[3].is_foreign, trials[3].state) == (True, State.FAIL)
    assert plain.trials[1].params == {"cnn.learning_rate": 0.02}
    close_storage(plain._storage._backend)


def _open_plainly(url):
    full = make_url(url).set(drivername=DRIVERS[make_url(url).drivername], password=SECRET)
    return optuna.storages.RDBStorage(full.render_as_string(hide_password=False))
