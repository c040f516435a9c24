"""`ray up configs/clusters/onprem.yaml`, a study and `ray down`, on three hosts."""

import os
import time

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

STUDY = """
name: {name}
results: {shared}/results
data: {{path: sample, max_train_images: {images}, val_fraction: 0.25, cache: /tmp/cache}}
search: {{architectures: [cnn], num_trials: {trials}, max_epochs: {epochs}, scheduler: none}}
space: {{cnn: {{learning_rate: {{low: 1e-4, high: 1e-2, log: true}}, batch_size: 32}}}}
resources: {{cnn: {{cpus: {cpus}}}}}
evaluation: {{seeds: 1}}
tracking: {{mode: 'off'}}
cluster: {{address: auto, min_nodes: 2, max_nodes: 3}}
"""
SEARCH = "cd cifake-search && python -m search.run ~/study.yaml --plain"


@pytest.fixture(scope="module")
def running(cluster):
    """The cluster after `ray up`."""
    cluster.up()
    cluster.wait_for_nodes([host.address for host in cluster.hosts])
    return cluster


def start_study(cluster, name, *, trials, epochs, images, options=""):
    """Start a study on the head from the laptop; a trial takes all cores of a host."""
    values = {"shared": cluster.shared, "name": name, "trials": trials, "epochs": epochs, "images": images}
    (cluster.hosts[0].home / "study.yaml").write_text(STUDY.format(cpus=os.cpu_count(), **values))
    return cluster.laptop.start(f"ray exec ~/cluster.yaml '{SEARCH} {options}'")


def list_busy(cluster):
    """Return the hosts on which a trial's process lives."""
    on = [host for host in cluster.hosts if host.is_on]
    return {host.name for host in on if any("ResourceTrainable" in line for line in host.list_processes())}


def load_trials(cluster, name):
    path = cluster.shared / "results" / name / "study.journal"
    if not path.exists():
        return []
    storage = JournalStorage(JournalFileBackend(str(path)))
    return optuna.load_study(study_name=name, storage=storage).trials


def count_epochs(cluster, name):
    return [len(trial.intermediate_values) for trial in load_trials(cluster, name)]


def wait_for(condition, process=None, timeout_s=240):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None
        time.sleep(1)


def test_every_host_joins(running):
    assert running.list_nodes() == ["10.77.0.1", "10.77.0.2", "10.77.0.3"]


@pytest.mark.parametrize("secret", ["", "RAY_AUTH_MODE=token RAY_AUTH_TOKEN=guessed"])
def test_a_worker_without_the_token_is_refused(running, secret):
    process = running.laptop.start(f"HOME=/tmp/nobody {secret} .venv/bin/ray start --address=10.77.0.1:6379")
    assert process.wait(timeout=120) != 0
    assert "InvalidAuthToken" in running.laptop.output.read_text()
    assert len(running.list_nodes()) == 3


def test_a_study_runs_its_trials_on_every_host(running):
    process = start_study(running, "straight", trials=9, epochs=3, images=400)
    busy = set()
    while process.poll() is None:
        busy |= list_busy(running)
        time.sleep(1)
    output = running.laptop.output.read_text()
    assert process.returncode == 0, output
    assert busy == {"host0", "host1", "host2"}
    assert count_epochs(running, "straight") == [3] * 9
    assert all(host.address in output for host in running.hosts)
    for host in running.hosts:
        assert len(list((host.folder / "tmp" / "cache").glob("pack*"))) == 1


def test_the_trials_of_a_host_that_vanishes_go_on_elsewhere(running):
    process = start_study(running, "cut", trials=4, epochs=6, images=1000, options="--set search.max_failures=0")
    wait_for(lambda: "host2" in list_busy(running) and sum(count_epochs(running, "cut")) >= 4, process)
    running.hosts[2].cut_off()
    running.hosts[2].switch_off()
    assert process.wait(timeout=400) == 0, running.laptop.output.read_text()
    assert [trial.user_attrs.get("reason") for trial in load_trials(running, "cut")] == [None] * 4
    assert count_epochs(running, "cut") == [6] * 4


def test_after_ray_down_nothing_runs_on_any_host(running):
    running.down()
    deadline = time.monotonic() + 150
    on = [host for host in running.hosts if host.is_on]
    while time.monotonic() < deadline:
        left = {host.name: [line for line in host.list_processes() if "ray" in line] for host in on}
        if not any(left.values()):
            return
        time.sleep(2)
    raise AssertionError(left)
