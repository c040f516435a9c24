"""A search on this machine: attacked by another user of the machine while it trains, and what its Ray starts."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import ray
from ray._private.node import Node
from ray._raylet import AuthenticationMode, get_authentication_mode

from search.cluster.local import SERVICES, keep_private
from search.cluster.nodes import connect
from search.config.load import parse

ROOT = Path(__file__).parents[3]
NOBODY = 65534
BECOME_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
STUDY = """
name: tiny
data: {{path: sample, max_train_images: 200, val_fraction: 0.25, cache: {cache}}}
search: {{architectures: [cnn], num_trials: 2, max_epochs: 100000, scheduler: none}}
space: {{cnn: {{learning_rate: {{low: 1e-4, high: 1e-2, log: true}}}}}}
tracking: {{mode: offline}}
cluster: {{cpus: 1}}
"""
ATTACK = """
import json, os, socket, sys, urllib.error, urllib.request
from pathlib import Path

ports, pids, sockets, folders, token = json.loads(sys.argv[1])
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {}


def attempt(act):
    try:
        return act()
    except Exception as error:
        return type(error).__name__


def run_code(port):
    import ray

    ray.init(address=f"127.0.0.1:{port}", log_to_driver=False, logging_level="CRITICAL")
    return ray.get(ray.remote(num_cpus=0)(lambda: "ran").remote(), timeout=100)  # the trials have all cores


def ask_store(port):
    from ray._raylet import GcsClient

    return [key.decode() for key in GcsClient(address=f"127.0.0.1:{port}").internal_kv_keys(b"", b"session")]


def post(port):
    request = urllib.request.Request(f"http://127.0.0.1:{port}/get_runtime_envs_info", data=b"", method="POST")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        return urllib.request.urlopen(request, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code


def call(path):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    return "connected"


print(json.dumps({
    "store": attempt(lambda: ask_store(ports["gcs_server"])),
    "agent": attempt(lambda: post(ports["agent"])),
    "code": attempt(lambda: run_code(ports["gcs_server"])),
    "environments": [attempt(lambda pid=pid: len(Path(f"/proc/{pid}/environ").read_bytes())) for pid in pids],
    "sockets": [attempt(lambda path=path: call(path)) for path in sockets],
    "folders": [attempt(lambda path=path: os.listdir(path)) for path in folders],
}))
"""
"""What a user tries who knows every port, process, socket and folder of the search, and perhaps its token."""

SCRIPTS = {"dashboard.py", "monitor.py", "log_monitor.py"}


def find_lack():
    """Return why no other user can attack here, or None."""
    if os.geteuid() != 0:
        return "needs root, to become another user"
    if shutil.which("setpriv") is None:
        return "needs setpriv"
    tried = subprocess.run([*BECOME_NOBODY, sys.executable, "-c", "import ray"], capture_output=True, check=False)
    return None if tried.returncode == 0 else "another user cannot run this Python"


@pytest.fixture
def temporary():
    """A folder whose path is short enough for the names of sockets, unlike pytest's."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def searching(tmp_path, temporary, spawn):
    """The process of a search that trains, and the folder in which all of its temporary files are."""
    if lack := find_lack():
        pytest.skip(f"no other user can attack: {lack}")
    (tmp_path / "study.yaml").write_text(STUDY.format(cache=tmp_path / "cache"))
    (tmp_path / "home" / ".ray").mkdir(parents=True)
    (tmp_path / "home" / ".ray" / "auth_token").write_text("of-a-cluster")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path / "home"), "TMPDIR": str(temporary)}
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "WANDB_API_KEY"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "search.run", "study.yaml", "--plain"]
    with (tmp_path / "output").open("w") as output:
        process = spawn(command, cwd=tmp_path, env=environment, stdout=output, stderr=output)
    while "epoch 1/" not in (tmp_path / "output").read_text():
        assert process.poll() is None, (tmp_path / "output").read_text()
        time.sleep(0.1)
    return process, temporary


def list_tree(process):
    return [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]


def list_listening(tree):
    """Return address and port of everything that listens, with the name of its process."""
    found = [(each.name(), connection) for each in tree for connection in each.net_connections()]
    return [(name, connection.laddr) for name, connection in found if connection.status == psutil.CONN_LISTEN]


def attack(searching, tmp_path, *, token="", user=()):
    """Try everything as some user and return what came of it."""
    process, temporary = searching
    tree = list_tree(process)
    ports = {"agent" if "Agent" in name else name: address.port for name, address in list_listening(tree)}
    sockets = [str(path) for path in temporary.rglob("*") if path.is_socket()]
    folders = [str(path) for path in temporary.iterdir() if path.is_dir()]
    assert {"plasma_store", "raylet"} <= {Path(path).name for path in sockets}
    known = json.dumps([ports, [each.pid for each in tree], sockets, folders, token])
    home = tmp_path / f"home-{len(user)}-{bool(token)}"
    home.mkdir()
    home.chmod(0o777)
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    command = [*user, sys.executable, "-c", ATTACK, known]
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def holds(path, token):
    """Answer whether a file has the token; one that got another name meanwhile has not."""
    with contextlib.suppress(FileNotFoundError):
        return token.encode() in path.read_bytes()
    return False


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_another_user_of_the_machine_can_use_nothing_of_a_running_search(searching, tmp_path):
    """The same attack is let in as the same user with the search's token, so that it is the right one."""
    process, temporary = searching
    tree = list_tree(process)
    assert {address.ip.removeprefix("::ffff:") for _, address in list_listening(tree)} == {"127.0.0.1"}

    token = next(each for each in tree if each.name() == "raylet").environ()["RAY_AUTH_TOKEN"]
    assert len(token) == 64
    assert not [each for each in tree if token in " ".join(each.cmdline())]
    files = [path for path in (*temporary.rglob("*"), *tmp_path.rglob("*")) if path.is_file()]
    assert not [path for path in files if holds(path, token)]
    assert [path.read_text() for path in (tmp_path / "home" / ".ray").iterdir()] == ["of-a-cluster"]

    refused = attack(searching, tmp_path, user=BECOME_NOBODY)
    assert refused["store"] == "AuthenticationError"
    assert refused["agent"] == 401
    assert refused["code"] in ("AuthenticationError", "ConnectionError")
    assert set(refused["environments"]) <= {"PermissionError", "FileNotFoundError"}  # the latter has ended meanwhile
    assert {*refused["sockets"], *refused["folders"]} == {"PermissionError"}

    let_in = attack(searching, tmp_path, token=token)
    assert (let_in["store"], let_in["agent"], let_in["code"]) == (["session_name"], 200, "ran")
    assert set(let_in["sockets"]) == {"connected"}
    assert process.poll() is None


@pytest.mark.ray
def test_a_local_search_leaves_no_folder_and_the_users_own_token_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "mine"))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with connect(parse({"name": "x", "cluster": {"cpus": 2}})):
        folder = Path(ray._private.worker._global_node.temp_dir).parent
        assert folder.stat().st_mode & 0o777 == 0o700
        assert get_authentication_mode() == AuthenticationMode.TOKEN
        assert "RAY_AUTH_TOKEN_PATH" not in os.environ
    assert not folder.exists()
    assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "mine")
    assert not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} & os.environ.keys()
    assert get_authentication_mode() == AuthenticationMode.DISABLED


def test_every_run_has_a_token_of_its_own():
    tokens = set()
    for _ in range(2):
        with keep_private():
            tokens.add(os.environ["RAY_AUTH_TOKEN"])
    assert {len(token) for token in tokens} == {64}
    assert len(tokens) == 2


def list_scripts():
    """Return which of the services run as children of this process."""
    words = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            words += child.cmdline()
    return {word.rpartition("/")[2] for word in words} & SCRIPTS


@pytest.mark.ray
def test_a_local_ray_starts_no_service_of_a_cluster_and_its_workers_load_torch_at_once():
    methods = [getattr(Node, name) for name in SERVICES]
    with connect(parse({"name": "x", "cluster": {"cpus": 1}})):
        assert list_scripts() == set()
        modules = ray.get(ray.remote(lambda: set(__import__("sys").modules)).remote())
        assert {"torch", "ray.tune"} <= modules
        assert ray.cluster_resources()["object_store_memory"] == 128 * 2**20
    assert [getattr(Node, name) for name in SERVICES] == methods


@pytest.mark.ray
def test_ray_by_itself_still_starts_them():
    """If this fails, `leave_out_services` can go."""
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        assert list_scripts() == SCRIPTS
    finally:
        ray.shutdown()
