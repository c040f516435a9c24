"""A study, a model, a bucket and a server of a stranger: what they may not do."""

import copy
import dataclasses
import json
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import threading

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import search.commands.dashboard
import search.commands.evaluate
import search.commands.export
import search.commands.inspect
import search.commands.predict
import search.commands.reproduce
import search.commands.sync
from search.commands.reproduce import DEPENDENCIES
from search.config.data import DataConfig
from search.config.load import parse
from search.config.untrusted import STORAGE, check_object_name, parse_json
from search.config.urls import PASSWORD
from search.config.yaml import format_yaml, read_untrusted_yaml
from search.evaluation.choices import list_retrainings, read_entry
from search.evaluation.model_file import load_model, save_model
from search.evaluation.model_record import build_record
from search.record.journal import Journal
from search.record.manifest import load_manifest, save_manifest
from search.record.object_store import Store
from search.record.reading import load_study, read_study
from search.record.remote import download_study
from search.record.storage import read_storage
from search.record.trial import State
from search.run import _read_stored
from search.study import Study
from trainables.errors import InputError
from trainables.names import IMPORTED, require_imported

DATABASE = "postgresql://someone@203.0.113.9/all"  # no such host: RFC 5737


@pytest.fixture
def study(tmp_path, describe_record, saved_model):
    """A study of one ended trial and one model."""
    folder = tmp_path / "results" / "mine"
    folder.mkdir(parents=True)
    record = describe_record(parse({"name": "mine", "tracking": {"mode": "off"}}))
    winner = {"architecture": "cnn", "rank": 1, "trial": 0, "accuracy": 0.9, "epochs": 1, "threshold": 0.5}
    choices = {"rule": "best", "seeds": 1, "top_k": 1, "threshold": 0.5, "fingerprint": "f" * 64}
    stamp = {"time": "2026-11-28T12:00:00+00:00", "commit": None, "dirty": None}
    entry = {"chosen": stamp, **choices, "winners": [winner | {"recipe": None}], "opened": stamp}
    save_manifest(folder, {"id": "1d", "command": "python", **record, "evaluations": [entry]})
    journal = Journal(folder / "study.journal", "mine", note=print)
    trial = journal.add_trial("cnn", {"filters": 4, "dense_units": 8}, {})
    journal.add_epoch(trial, {"epoch": 1, "accuracy": 0.9, "loss": 0.3}, device="cpu", elapsed_s=1.0)
    journal.end_trial(trial, State.COMPLETE, None, {"seconds": 1.0})
    shutil.move(saved_model.parent, folder / "models")
    return folder


def call(command, *arguments):
    """Return exit code and what was said; an exception that is not meant to end a command is raised."""
    app = typer.Typer()
    app.command()(command.main)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout + result.stderr


def list_commands(study):
    return [
        (search.commands.inspect, study),
        (search.commands.dashboard, study, "--port", "0", "--host", "256.0.0.1"),  # which ends after the study was read
        (search.commands.evaluate, study, "--report"),
        (search.commands.reproduce, study),
        (search.commands.sync, study),
    ]


@pytest.mark.parametrize(
    "name",
    [
        *("study.yaml", "study.journal", "study.lock", "models", "models/cnn-seed0.json", "sweep.json", "report"),
        *("report/report.html", "artifacts", "artifacts/x", "wandb", "wandb/run/run-x.wandb", "checkpoints"),
        *("checkpoints/trial-0.ckpt", "models/cnn-seed0.ckpt", "study.yaml.partial", "anything/else"),
    ],
)
@pytest.mark.parametrize("position", range(5))
def test_no_command_follows_a_link_in_a_study(study, tmp_path, name, position):
    outside, path = tmp_path / "outside", study / name
    if path.exists():
        path.rename(outside)
    elif "." in path.name:
        outside.write_text("secret")
    else:
        outside.mkdir()
    path.parent.mkdir(exist_ok=True, parents=True)
    path.symlink_to(outside)
    before = sorted(tmp_path.rglob("*"))
    code, said = call(*list_commands(study)[position])
    assert (code, f"{name} is a link: replace it by what it points to" in said) == (2, True), said
    assert sorted(tmp_path.rglob("*")) == before


def test_a_pipe_in_a_study_is_refused_without_waiting(study):
    os.mkfifo(study / "models" / "cnn-seed1.json")
    assert "is neither a file nor a folder" in call(search.commands.inspect, study)[1]


def test_the_folder_itself_may_be_a_link_for_the_user_gave_it(study, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine").symlink_to(study)
    assert call(search.commands.inspect, tmp_path / "elsewhere" / "mine")[0] == 0


def test_the_link_that_wandb_makes_to_its_own_log_is_no_obstacle(study):
    logs = study / "wandb" / "offline-run-1" / "logs"
    logs.mkdir(parents=True)
    (logs / "debug-core.log").symlink_to("/nowhere")
    assert call(search.commands.inspect, study)[0] == 0


@pytest.mark.parametrize("name", ["wandb/settings", ".wandb/settings"])
def test_a_study_cannot_name_the_server_of_wandb(study, name):
    (study / name).parent.mkdir()
    (study / name).write_text("[default]\nbase_url = http://203.0.113.9\n")
    code, said = call(search.commands.sync, study)
    assert (code, "could make W&B use another server" in said) == (2, True)


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
@pytest.mark.parametrize("command", [search.commands.predict, search.commands.export])
def test_no_command_follows_a_link_in_place_of_a_model(saved_model, tmp_path, suffix, command):
    path = saved_model.with_suffix(suffix)
    path.rename(tmp_path / "outside")
    path.symlink_to(tmp_path / "outside")
    code, said = call(command, saved_model, *([tmp_path] if command is search.commands.predict else []))
    assert (code, "is a link: name the file it points to" in said) == (2, True), said


def change(study, path, value):
    """Set one value in a study.yaml, such as config.storage."""
    record = load_manifest(study)
    *parents, last = path.split(".")
    place = record
    for name in parents:
        place = place[name]
    place[last] = value
    save_manifest(study, record)


@pytest.mark.parametrize("position", [0, 1, 2, 4])
def test_a_database_that_only_study_yaml_names_is_not_contacted(study, monkeypatch, position):
    change(study, "config.storage", DATABASE)
    monkeypatch.setenv(PASSWORD, "secret")
    for known in ("", "postgresql://someone@localhost/all"):
        monkeypatch.setenv(STORAGE, known)
        code, said = call(*list_commands(study)[position])
        assert (code, f"put the URL into the environment variable {STORAGE}" in said) == (2, True), said


def test_a_database_that_the_user_names_too_is_used(study, monkeypatch):
    change(study, "config.storage", DATABASE)
    monkeypatch.setenv(STORAGE, DATABASE)
    assert load_study(study)[0].storage == DATABASE


def test_a_study_resumed_by_its_name_alone_needs_its_hosts_named(study, monkeypatch):
    monkeypatch.chdir(study.parents[1])
    monkeypatch.delenv(STORAGE, raising=False)
    change(study, "config.storage", DATABASE)
    change(study, "config.cluster.address", "203.0.113.9:6379")
    with pytest.raises(InputError, match="environment variable"):
        _read_stored(["name=mine"])
    with pytest.raises(InputError, match=r"--set cluster\.address"):
        _read_stored(["name=mine", f"storage={DATABASE}"])
    config = _read_stored(["name=mine", f"storage={DATABASE}", "cluster.address=local"])
    assert (config.storage, config.cluster.address) == (DATABASE, "local")


def test_the_cache_is_the_users_and_not_that_of_study_yaml(study, tmp_path):
    change(study, "config.data.cache", str(tmp_path / "theirs"))
    assert load_study(study)[0].data.cache == DataConfig().cache
    assert load_study(study, [f"data.cache={tmp_path}"])[0].data.cache == str(tmp_path)


def test_a_study_yaml_does_not_say_where_code_is(study, tmp_path, monkeypatch):
    change(study, "config.code", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert load_study(study)[0].code is None
    overrides = ['name="mine"', f'results="{study.parent}"']
    assert _read_stored(overrides).code is None
    assert _read_stored(overrides, tmp_path).code is None, "no code is named"
    monkeypatch.setattr(sys, "path", [*sys.path])
    change(study, "config.search.sampler", "theirs:Sampler")
    (tmp_path / "theirs.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(InputError, match=r"theirs:Sampler: if you trust it, name its CONFIG, or its folder with"):
        _read_stored(overrides)
    for command in (search.commands.evaluate, search.commands.reproduce):
        code, said = call(command, study)
        assert (code, "theirs:Sampler: if you trust it, name its folder with --code" in said) == (2, True)
    assert not (tmp_path / "ran").exists()
    (mine := tmp_path / "mine").mkdir()
    (mine / "theirs.py").write_text("Sampler = dict")
    assert _read_stored(overrides, mine).code == str(mine)
    IMPORTED.pop("theirs:Sampler")
    sys.modules.pop("theirs")


def test_an_untrusted_study_yaml_extends_no_file(study, tmp_path):
    (tmp_path / "secret.yaml").write_text("command: secret\n")
    path = study / "study.yaml"
    path.write_text(f"extends: {tmp_path / 'secret.yaml'}\n" + path.read_text().replace("command: python\n", ""))
    assert "secret" not in str(load_manifest(study).get("command"))


@pytest.mark.parametrize(
    "text",
    [
        "a: &x [1]\nb: *x\n",
        "a: " + "[" * 1000,
        "a: " + "9" * 5000,
        "a: !!int x",
        "a: !!timestamp x",
        'a: "\\ud800"',
        "[a]: 1",
        "? {a: 1}\n: 1",
        "a:\n" + "- b\n" * 250_000,
        "a: '" + "x" * 9_000_000 + "'",
        "- a",
        "",
    ],
)
def test_an_unusable_study_yaml_is_one_short_sentence(tmp_path, text):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_untrusted_yaml(path)
    assert len(str(caught.value)) < 700
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["[" * 100_000, "NaN", "[Infinity]", "9" * 5000, '"\\ud800"', "{", "1e999"])
def test_what_is_not_strict_json_is_refused(text):
    with pytest.raises(ValueError, match=r".+"):
        parse_json(text.encode())


@pytest.mark.parametrize(
    "query",
    [
        *("host=203.0.113.9", "hostaddr=203.0.113.9", "service=x", "passfile=/x", "options=-c%20x", "sslkey=/x"),
        *(
            "read_default_file=/x",
            "unix_socket=/x",
            "local_infile=1",
            "init_command=x",
            "auth_plugin_map=x",
            "ssl_key=x",
        ),
        *("sslmode=require&sslmode=disable", "charset=a&charset=b", "="),
    ],
)
@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
def test_a_database_url_has_few_options(kind, query):
    with pytest.raises(InputError, match=r"storage: the option .* is not allowed"):
        parse({"name": "x", "storage": f"{kind}://someone@host/db?{query}"})


@pytest.mark.parametrize(
    "url", ["postgresql://u@h/d?sslmode=verify-full&sslrootcert=system", "mysql://u@h/d?ssl_ca=/x"]
)
def test_a_database_url_may_ask_for_encryption(url):
    assert parse({"name": "x", "storage": url}).storage == url


class Listener:
    """A server that says one thing to each client and keeps all that it hears."""

    def __init__(self, talk):
        self.heard = b""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._talk = talk
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            with client:
                client.settimeout(20)
                try:
                    self._talk(client, self)
                except OSError:
                    continue

    def hear(self, client):
        content = client.recv(65536)
        self.heard += content
        return content

    def close(self):
        self._socket.close()


def ask_postgresql(client, server):
    """Ask for the password in clear text, as PostgreSQL's `password` method does."""
    while b"user\0" not in (content := server.hear(client)):
        if not content:
            return
        client.sendall(b"N")  # neither TLS nor GSSAPI
    client.sendall(b"R" + struct.pack(">II", 8, 3))
    server.hear(client)


def ask_mysql(client, server):
    """Greet, then ask for the password in clear text."""
    flags = 0x00080000 | 0x8000 | 0x0200 | 0x0008  # PLUGIN_AUTH, SECURE_CONNECTION, PROTOCOL_41, CONNECT_WITH_DB
    greeting = b"\x0a8.0.0\0" + struct.pack("<I", 1) + b"a" * 8 + b"\0" + struct.pack("<H", flags & 0xFFFF)
    greeting += b"\x21\x02\x00" + struct.pack("<H", flags >> 16) + b"\x15" + b"\0" * 10 + b"b" * 12 + b"\0"
    send_mysql(client, 0, greeting + b"mysql_native_password\0")
    server.hear(client)
    send_mysql(client, 2, b"\xfemysql_clear_password\0")
    server.hear(client)


def send_mysql(client, number, payload):
    client.sendall(struct.pack("<I", len(payload))[:3] + bytes([number]) + payload)


@pytest.mark.parametrize(("kind", "talk"), [("postgresql", ask_postgresql), ("mysql", ask_mysql)])
def test_no_server_is_sent_the_password_in_clear_text(monkeypatch, kind, talk):
    monkeypatch.setenv(PASSWORD, "5up3rs3cr3t")
    server = Listener(talk)
    try:
        with pytest.raises(InputError, match="cannot use the database"):
            read_storage(f"{kind}://someone@127.0.0.1:{server.port}/all")
    finally:
        server.close()
    assert b"someone" in server.heard
    assert b"5up3rs3cr3t" not in server.heard


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a//b", "a/../b", "a\\b", "a/./b", "", "a/", "a\x1b", "a" * 300])
def test_a_name_that_leads_elsewhere_is_refused(name):
    with pytest.raises(InputError, match="which is not a valid file name"):
        check_object_name(name, "s3://bucket/mine")


@pytest.mark.parametrize("key", ["studies/mine/../../../evil", "studies/mine//evil", "studies/mine/models/..\\evil"])
def test_nothing_of_a_bucket_with_such_a_name_is_downloaded(bucket, tmp_path, key):
    import boto3

    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    client.put_object(Bucket=bucket, Key="studies/mine/study.yaml", Body=b"name: mine")
    client.put_object(Bucket=bucket, Key=key, Body=b"evil")
    with pytest.raises(InputError, match="which is not a valid file name"):
        download_study(f"s3://{bucket}/studies/mine", tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_a_download_is_not_written_through_a_link(bucket, tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    store = Store(f"s3://{bucket}/mine")
    store.write("file", b"theirs")
    for name in ("file", "file.fetched"):
        (tmp_path / name).symlink_to(outside)
    store.download({"file": tmp_path / "file"})
    assert (outside.read_bytes(), (tmp_path / "file").read_bytes()) == (b"mine", b"theirs")


def test_a_study_yaml_in_a_bucket_is_read_up_to_its_limit(bucket):
    Store(f"s3://{bucket}/studies/mine").write("study.yaml", b"#" * (9 * 2**20))
    with pytest.raises(InputError, match="more than 8,388,608 bytes"):
        load_study(f"s3://{bucket}/studies/mine")


VALUES = (
    *(
        None,
        True,
        -1,
        0,
        1,
        10**30,
        10**400,
        0.5,
        -0.0,
        1e308,
        float("nan"),
        float("inf"),
        "",
        "x",
        "../../x",
        "/etc/x",
    ),
    *(
        "a\nb",
        "\x1b[2J",
        "\0",
        "é" * 300,
        [],
        {},
        [[[[[[]]]]]],
        {"a": {"b": {"c": 1}}},
        [1, "2", None],
        list(range(999)),
    ),
)
"""What a mutation puts in place of a value."""


def mutate(document, generator):
    """Change a copy of plain values at up to three places: a value, a key, the length of a list."""
    document = copy.deepcopy(document)
    for _ in range(generator.randint(1, 3)):
        places = list(list_places(document))
        if not places:
            break
        parent, key = generator.choice(places)
        match generator.randrange(5):
            case 0:
                del parent[key]
            case 1 if isinstance(parent, dict):
                parent[generator.choice(["../x", "a b", "", "\x1b", f"{key}2"])] = parent.pop(key)
            case 2 if isinstance(parent, list):
                parent += copy.deepcopy(parent[:1]) * generator.choice([1, 2, 1000])
            case _:
                parent[key] = copy.deepcopy(generator.choice(VALUES))
    return document


def list_places(value):
    """Yield (collection, key) of everything inside."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in list(items):
        yield value, key
        yield from list_places(below)


def check_refusals(mutants, load):
    """Load each mutant; anything but a result or one sentence is a traceback. Return how many were refused."""
    refused, said = 0, []
    for number, mutant in enumerate(mutants):
        try:
            load(mutant)
        except InputError as error:
            refused += 1
            said.append(str(error))
        except Exception as error:
            raise AssertionError(f"mutation {number} is a traceback: {json.dumps(mutant)[:3000]}") from error
    assert [text for text in said if len(text.splitlines()) != 1 or len(text) > 3000] == []
    return refused


def test_no_mutation_of_a_models_record_is_a_traceback(saved_model):
    path = saved_model.with_suffix(".json")
    original, generator = json.loads(path.read_bytes()), random.Random(0)
    mutants = [mutate(original, generator) for _ in range(700)]

    def load(mutant):
        path.write_text(json.dumps(mutant))
        record = load_model(saved_model).record
        assert "/" not in record.label
        search.commands.reproduce.list_obstacles(record, {"type": "cpu"}, {"packages": dict.fromkeys(DEPENDENCIES)})

    refused = check_refusals(mutants, load)
    assert 350 < refused < 700
    path.write_text(json.dumps(original))
    load_model(saved_model)


def test_no_mutation_of_a_study_yaml_is_a_traceback(study):
    original, generator = load_manifest(study), random.Random(1)
    mutants = [mutate(original, generator) for _ in range(600)]

    def load(mutant):
        try:
            (study / "study.yaml").write_text(format_yaml(mutant))
        except UnicodeEncodeError:
            return
        config, record = load_study(study)
        with read_study(study) as reader:
            found = search.commands.inspect.Inspected(reader)
        found.describe_progress()
        search.commands.inspect.describe_study(found)
        for entry in record["evaluations"]:
            list_retrainings(config, found.trials, read_entry(entry))

    refused = check_refusals(mutants, load)
    assert 200 < refused < 600


@pytest.mark.parametrize("number", range(12))
def test_no_mutation_is_a_traceback_through_the_commands(study, tmp_path, number):
    generator = random.Random(100 + number)
    model = study / "models" / "cnn-seed0.safetensors"
    model.with_suffix(".json").write_text(
        json.dumps(mutate(json.loads(model.with_suffix(".json").read_bytes()), generator))
    )
    (study / "study.yaml").write_text(format_yaml(mutate(load_manifest(study), generator)))
    for command, *arguments in (
        *list_commands(study)[:3],
        (search.commands.predict, model, tmp_path / "nothing"),
        (search.commands.export, model, "--output", tmp_path / "nowhere" / "x.onnx"),
    ):
        code, said = call(command, *arguments)
        assert code in (0, 1, 2), said
        assert "Traceback" not in said


@pytest.mark.parametrize("label", ["../../x", "/etc/x", "a/b", "..", "", "a\0b", "a\nb", "x" * 200, "cnn.seed0"])
def test_a_label_cannot_lead_out_of_the_folder(saved_model, label):
    content = json.loads(saved_model.with_suffix(".json").read_bytes())
    content["retraining"]["label"] = content["tested"]["label"] = label
    with pytest.raises(InputError, match="label"):
        build_record(content, "it")


def test_a_model_as_large_as_its_record_says_is_never_built(saved_model):
    """10^12 hidden units would take 100 TB."""
    path = saved_model.with_suffix(".json")
    content = json.loads(path.read_bytes())
    content["parameters"]["dense_units"] = 10**12
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="does not fit its record"):
        load_model(saved_model)


def test_a_model_with_a_weight_that_is_no_number_is_refused(tmp_path, make_record):
    from search.evaluation.model_file import save_model
    from trainables.models.model import build_model

    record = make_record()
    weights = build_model(record.build_config().model).state_dict()
    next(iter(weights.values())).view(-1)[0] = float("nan")
    save_model(tmp_path, record, weights)
    with pytest.raises(InputError, match="a weight is not finite"):
        load_model(tmp_path / "cnn-seed0.safetensors")


def test_a_small_file_reserves_no_more_memory_than_it_has(saved_model):
    """In a process that may have less memory than the limit for a model's file."""
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))\n"
    program = "from pathlib import Path; from search.config.untrusted import WEIGHTS_BYTES, read_file\n"
    program += "print(len(read_file(Path(sys.argv[1]), WEIGHTS_BYTES)))"
    done = subprocess.run(
        [sys.executable, "-c", limit + program, saved_model], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == saved_model.stat().st_size


def test_a_test_of_more_images_than_the_limit_is_refused(make_record):
    from search.evaluation.model_file import check_predictions

    record = make_record()
    record = dataclasses.replace(record, tested=record.tested | {"confusion": ((10**6, 1), (0, 0))})
    with pytest.raises(InputError, match=r"are of 1,000,001 images, more than 1,000,000"):
        check_predictions(build_predictions(), record)


@pytest.fixture
def evaluated(study, make_record):
    """The same study with the model and the predictions of its evaluation."""
    config, _ = load_study(study)
    trials = Journal.read(study / "study.journal", "mine").load()
    [retraining] = list_retrainings(config, trials, read_entry(load_manifest(study)["evaluations"][-1]))
    record = make_record(**json.loads(retraining.describe()))
    weights = load_model(study / "models" / "cnn-seed0.safetensors").model.state_dict()
    save_model(study / "models", record, weights, build_predictions())
    return study


@pytest.mark.parametrize("counts", [{}, {"train": {}}])
def test_a_report_of_epochs_with_accuracy_alone_and_without_counts_of_images_is_written(evaluated, counts):
    manifest = load_manifest(evaluated)
    manifest["data"]["counts"] = counts
    save_manifest(evaluated, manifest)
    code, said = call(search.commands.evaluate, evaluated, "--report")
    assert code == 0, said
    assert "cnn" in (evaluated / "report" / "report.html").read_text()


def build_predictions(**changes):
    known = {
        "labels": np.repeat(np.array([0, 1], np.uint8), 10),
        "logits": np.zeros(20, np.float32),
        "mistakes": np.array([3], np.int64),
        "mistake_images": np.zeros((1, 32, 32, 3), np.uint8),
    }
    return known | changes


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": np.zeros(20, np.uint8)},
        {"labels": np.zeros(3, np.uint8)},
        {"labels": np.full(20, 7, np.uint8)},
        {"labels": np.zeros(20, np.float32)},
        {"logits": np.full(20, np.nan, np.float32)},
        {"logits": np.zeros((20, 2), np.float32)},
        {"mistakes": np.array([20], np.int64)},
        {"mistakes": np.array([-1], np.int64)},
        {"mistake_images": np.zeros((1, 3, 3, 3), np.uint8)},
    ],
)
def test_predictions_of_another_shape_than_the_test_are_refused(make_record, changes):
    from search.evaluation.model_file import check_predictions

    check_predictions(build_predictions(), make_record())
    with pytest.raises(InputError, match="evaluate the study again"):
        check_predictions(build_predictions(**changes), make_record())


@pytest.mark.parametrize("params", [{}, {"optimizer": "stolen:Sgd"}])
def test_a_name_in_a_strangers_journal_or_record_runs_no_code(tmp_path, monkeypatch, params):
    (tmp_path / "stolen.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    name = "cnn" if params else "stolen:Net"
    with pytest.raises(InputError, match="the study trains with stolen:"):
        require_imported(name, params.get("optimizer"))
    config = parse({"name": "mine"})
    journal = Journal(tmp_path / "study.journal", "mine", note=print)
    journal.add_trial(name, params, {})
    with pytest.raises(InputError, match="the study trains with stolen:"):
        Study(config, journal)
    journal.close()
    assert not (tmp_path / "ran").exists()
