"""`ray up configs/clusters/onprem.yaml`, studies, what can vanish, and `ray down`, on three hosts.

The tests share one cluster and run in this order, as a user's week would.
"""

import json
import os
import shutil
import time
from collections import Counter

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from trainables import checkpoint

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

STUDY = """
name: {name}
results: {shared}/results
data: {{path: sample, max_train_images: {images}, val_fraction: 0.25, cache: /tmp/cache}}
search: {{architectures: [cnn], num_trials: {trials}, max_epochs: {epochs}, scheduler: none, max_failures: 0}}
space: {{cnn: {{learning_rate: {{low: 1e-4, high: 1e-2, log: true}}, batch_size: 32}}}}
resources: {{cnn: {{cpus: {cpus}}}}}
evaluation: {{seeds: 1}}
tracking: {{mode: 'off'}}
cluster: {{address: auto, min_nodes: {min_nodes}, max_nodes: 3}}
"""
SEARCH = "cd ~/cifake-search && python -m search.run ~/study.yaml --plain"


REFUSALS = {
    "--set resources.cnn.cpus=100 --set cluster.wait_s=1": "resources.cnn: a trial asks for 100 CPUs",
    "--set cluster.min_nodes=4 --set cluster.wait_s=1": "cluster.min_nodes = 4: after 1 seconds a trial fits on 3 of",
    "--set results=/tmp/private": "results: node 10.77.0.2 does not share /tmp/private",
}
"""What is not as a study needs it, and how it is told."""


@pytest.fixture(scope="module")
def running(cluster):
    """The cluster after `ray up`."""
    cluster.up()
    cluster.wait_for_nodes([host.address for host in cluster.hosts])
    return cluster


FUNCTION = """
name: function
results: {shared}/results
trainable: digits:mlp
search: {{metric: error, goal: min, num_trials: 6, max_epochs: 100, scheduler: none, max_failures: 0}}
space: {{mlp: {{hidden: {{low: 8, high: 128, log: true}}}}}}
resources: {{mlp: {{cpus: {cpus}}}}}
tracking: {{mode: 'off'}}
cluster: {{address: auto, min_nodes: 3}}
"""
"""A search of a training function that each host has in its copy of the project."""


def write_study(cluster, name, *, trials, epochs, images, min_nodes=1):
    """Bring the head a study in which a trial takes all cores of a host."""
    values = {"shared": cluster.shared, "name": name, "trials": trials, "epochs": epochs, "images": images}
    text = STUDY.format(cpus=os.cpu_count(), min_nodes=min_nodes, **values)
    (cluster.laptop.home / "study.yaml").write_text(text)
    cluster.call_ray("rsync-up", "/tmp/home/cluster.yaml", "/tmp/home/study.yaml", "/tmp/home/study.yaml")


def list_busy(cluster):
    """Return the hosts on which a trial's process lives."""
    on = [host for host in cluster.hosts if host.is_on]
    return {host.name for host in on if any("ResourceTrainable" in line for line in host.list_processes())}


def find_folder(cluster, name):
    """Return the folder of a study, which all hosts share."""
    return cluster.shared / "results" / name


def load_trials(cluster, name):
    path = find_folder(cluster, name) / "study.journal"
    if not path.exists():
        return []
    storage = JournalStorage(JournalFileBackend(str(path)))
    return optuna.load_study(study_name=name, storage=storage).trials


def count_epochs(cluster, name):
    return [len(trial.intermediate_values) for trial in load_trials(cluster, name)]


def count_reports(cluster, name):
    """Return how often each epoch of each trial was written into the journal."""
    lines = (find_folder(cluster, name) / "study.journal").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return Counter((each["trial_id"], each["step"]) for each in records if "intermediate_value" in each)


def count_packs(host):
    return len(list((host.folder / "tmp" / "cache").glob("pack*")))


def wait_for(condition, process=None, timeout_s=240):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, process.output.read_text()
        time.sleep(1)


def test_every_host_joins(running):
    assert running.list_nodes() == ["10.77.0.1", "10.77.0.2", "10.77.0.3"]


def test_the_token_is_readable_by_its_user_alone_on_every_host(running):
    modes = [(host.home / ".ray" / "auth_token").stat().st_mode & 0o777 for host in running.hosts]
    assert modes == [0o600] * 3


def test_a_worker_without_the_token_is_refused(running):
    """One that shows none, and one that shows another."""
    start = "HOME=/tmp/nobody {} .venv/bin/ray start --address=10.77.0.1:6379"
    secrets = ("", "RAY_AUTH_MODE=token RAY_AUTH_TOKEN=guessed")
    processes = [running.laptop.start(start.format(secret)) for secret in secrets]
    for process in processes:
        assert process.wait(timeout=120) != 0
        assert "InvalidAuthToken" in process.output.read_text()
    assert len(running.list_nodes()) == 3


def test_a_study_that_cannot_run_is_refused_in_one_sentence(running):
    write_study(running, "refused", trials=1, epochs=1, images=100)
    refused = {sentence: start_on_head(running, settings) for settings, sentence in REFUSALS.items()}
    for sentence, process in refused.items():
        check_refusal(process, sentence)
    changed = running.hosts[1].home / "cifake-search" / "search" / "study.py"
    before = changed.read_text()
    changed.write_text(f"{before}# another version\n")
    check_refusal(start_on_head(running, ""), "node 10.77.0.2 has code ")
    changed.write_text(before)
    assert not find_folder(running, "refused").exists()


def start_on_head(cluster, settings):
    """Start the study as one does who is logged in there."""
    return cluster.head.start(f"RAY_AUTH_MODE=token python -m search.run ~/study.yaml --plain {settings}")


def check_refusal(process, sentence):
    code = process.wait(timeout=200)
    last = process.output.read_text().strip().splitlines()[-1]
    assert (code, last.startswith(f"error: {sentence}")) == (2, True), last


def test_a_training_function_of_the_user_is_trained_on_every_host(running):
    (running.laptop.home / "study.yaml").write_text(FUNCTION.format(shared=running.shared, cpus=os.cpu_count()))
    beside = "/tmp/home/cifake-search/examples/own_function/study.yaml"
    running.call_ray("rsync-up", "/tmp/home/cluster.yaml", "/tmp/home/study.yaml", beside)
    searched = running.head.start(f"RAY_AUTH_MODE=token python -m search.run {beside} --plain")
    wait_for(lambda: list_busy(running) == {"host0", "host1", "host2"}, searched)
    assert searched.wait(timeout=300) == 0, searched.output.read_text()
    assert count_epochs(running, "function") == [100] * 6
    assert set(count_reports(running, "function").values()) == {1}
    assert not list((find_folder(running, "function") / "checkpoints").glob("*.ckpt*"))


def test_a_study_runs_its_trials_on_every_host_and_those_of_one_that_vanishes_go_on_elsewhere(running):
    """Submitted as a job from the laptop, through the port that `ray dashboard` brings there."""
    write_study(running, "cut", trials=9, epochs=12, images=1000, min_nodes=3)
    dashboard = running.laptop.start("ray dashboard ~/cluster.yaml")
    wait_for(lambda: is_answering(running.laptop, 8265), dashboard)
    submit = "RAY_AUTH_MODE=token ray job {} --address http://127.0.0.1:8265 {}"
    submitted = running.laptop.start(submit.format("submit", f"--submission-id cut --no-wait -- bash -c '{SEARCH}'"))
    assert submitted.wait(timeout=120) == 0, submitted.output.read_text()
    job = running.laptop.start(submit.format("logs", "--follow cut"))

    wait_for(lambda: list_busy(running) == {"host0", "host1", "host2"}, job)
    wait_for(lambda: [count_packs(host) for host in running.hosts] == [1, 1, 1], job)
    wait_for(lambda: sum(count_epochs(running, "cut")) >= 4, job)
    running.hosts[2].cut_off()
    running.hosts[2].switch_off()

    assert job.wait(timeout=400) == 0
    output = job.output.read_text()
    assert "Job 'cut' succeeded" in output, output
    assert all(host.address in output for host in running.hosts)
    assert [trial.user_attrs.get("reason") for trial in load_trials(running, "cut")] == [None] * 9
    assert count_epochs(running, "cut") == [12] * 9
    assert set(count_reports(running, "cut").values()) == {1}
    dashboard.kill()
    dashboard.wait()
    report = find_folder(running, "cut") / "report"
    running.call_ray("rsync-down", "/tmp/home/cluster.yaml", f"{report}/", "/tmp/home/report/")
    assert (running.laptop.home / "report" / "report.html").read_bytes() == (report / "report.html").read_bytes()


def test_a_new_head_finishes_the_study_of_one_that_died(running):
    """The new head is another host; `ray up` finds no other one that is on."""
    write_study(running, "moved", trials=5, epochs=12, images=1000)
    running.call_ray("exec", "/tmp/home/cluster.yaml", "--tmux", SEARCH)
    terminal, screen = running.laptop.open_terminal("ray attach ~/cluster.yaml --tmux")
    assert "trial 0 cnn" in read_until(screen, "epoch 1/12")
    terminal.kill()
    terminal.wait()
    wait_for(lambda: sum(count_epochs(running, "moved")) >= 5)
    old, new, _ = running.hosts
    old.cut_off()
    old.switch_off()
    before = count_epochs(running, "moved")
    checkpoints = find_folder(running, "moved") / "checkpoints"
    for number, epochs in enumerate(before):
        if 0 < epochs < 12:  # it continues after its last epoch: the journal's, or one that was not reported any more
            assert len(checkpoint.load(checkpoints / f"trial-{number}.ckpt")["history"]) - epochs in (0, 1)

    running.appoint(new)
    running.up()
    write_study(running, "moved", trials=5, epochs=12, images=1000)
    resumed = running.laptop.start(f"ray exec ~/cluster.yaml '{SEARCH} --resume'")
    assert resumed.wait(timeout=400) == 0, resumed.output.read_text()
    assert "continues at epoch" in resumed.output.read_text()
    assert [trial.user_attrs.get("reason") for trial in load_trials(running, "moved")] == [None] * 5
    assert count_epochs(running, "moved") == [12] * 5
    assert set(count_reports(running, "moved").values()) == {1}


def test_a_host_that_joins_late_gets_work(running):
    """The study is given more trials than it could end meanwhile, and is ended by its budget."""
    *_, late = running.hosts
    shutil.rmtree(late.folder / "tmp" / "cache")  # as a new machine: it is brought the pack again
    more = "--resume --set search.num_trials=1000"
    extended = start_on_head(running, more)
    wait_for(lambda: "trial 5 cnn starts" in extended.output.read_text(), extended)
    late.switch_on(running.switch)
    wait_for(lambda: late.name in list_busy(running) and count_packs(late) == 1, extended)
    running.head.call("pkill", "-INT", "-f", "search.run")
    assert extended.wait(timeout=200) == 130
    ended = start_on_head(running, f"{more} --set search.max_total_epochs=1")
    assert ended.wait(timeout=200) == 0, ended.output.read_text()
    assert "The search ended early: the budget of 1 epochs is used." in " ".join(ended.output.read_text().split())
    assert set(count_reports(running, "moved").values()) == {1}


def is_answering(host, port):
    command = ["bash", "-c", f"echo > /dev/tcp/127.0.0.1/{port}"]
    try:
        host.call(*command)
    except AssertionError:
        return False
    return True


def read_until(screen, text, timeout_s=120):
    """Return what a terminal shows up to a text."""
    deadline = time.monotonic() + timeout_s
    shown = ""
    while text not in shown:
        assert time.monotonic() < deadline, shown
        shown += os.read(screen, 4096).decode(errors="replace")
    return shown


def test_after_ray_down_nothing_runs_on_any_host(running):
    running.down()
    deadline = time.monotonic() + 150
    on = [host for host in running.hosts if host.is_on]
    assert len(on) == 2
    while time.monotonic() < deadline:
        left = {host.name: [line for line in host.list_processes() if "ray" in line] for host in on}
        if not any(left.values()):
            return
        time.sleep(2)
    raise AssertionError(left)
