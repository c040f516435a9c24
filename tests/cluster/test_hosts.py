"""The hosts themselves leave nothing behind, however their test ends."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

SCRIPT = """
import runpy, sys
hosts = runpy.run_path(sys.argv[1])
folder, lock = hosts["make_folder"]()
cluster = hosts["Cluster"](folder, num_hosts=1)
for host in (cluster.laptop, *cluster.hosts):
    host.switch_on(cluster.switch)
cluster.laptop.start("sleep 1000")
print(folder, flush=True)
input()
"""


def test_a_killed_test_leaves_no_process_no_network_and_a_folder_that_the_next_one_deletes(cluster):
    hosts = str(Path(__file__).with_name("conftest.py"))
    command = [sys.executable, "-c", SCRIPT, hosts]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as test:
        folder = Path(test.stdout.readline().strip())
        inside, networks = wait_for_hosts(test.pid)
        test.kill()
    _, alive = psutil.wait_procs(inside, timeout=60)
    assert not alive
    assert not networks & {find_network(pid) for pid in psutil.pids()}
    assert folder.is_dir()
    next_one = "import runpy, sys; runpy.run_path(sys.argv[1])['delete_abandoned']()"
    subprocess.run([sys.executable, "-c", next_one, hosts], check=True)
    assert not folder.is_dir()
    assert cluster.folder.is_dir()


def wait_for_hosts(pid):
    """Return all that a process has started and the networks that these are in, as soon as the hosts are on."""
    deadline = time.monotonic() + 60
    while True:
        found = psutil.Process(pid).children(recursive=True)
        networks = {find_network(process.pid) for process in found} - {None, find_network(pid)}
        names = [find_name(process) for process in found]
        if len(networks) == 3 and names.count("sshd") == 2 and names.count("sleep") == 2:
            return found, networks
        assert time.monotonic() < deadline, names
        time.sleep(0.05)


def find_name(process):
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return None


def find_network(pid):
    """Return the network that a process is in, None if it is gone."""
    try:
        return Path(f"/proc/{pid}/ns/net").readlink()
    except OSError:
        return None
