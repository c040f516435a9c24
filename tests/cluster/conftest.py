"""Three hosts and a laptop on one machine: network, process, mount and host-name namespaces with an sshd in each.

Each host has its own address, process numbers, /tmp, /dev/shm and home; all see the rest of the file system, which is
the shared storage of a cluster. Nothing has a name outside: links, bridge and namespaces live as long as the processes
in them, and those are killed with the test's process, so that even a SIGKILL of it leaves nothing but files.
"""

import fcntl
import os
import pty
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import psutil
import pytest
import yaml

ROOT = Path(__file__).parents[2]
NEEDED = ("ip", "unshare", "nsenter", "setpriv", "sshd", "ssh", "ssh-keygen", "rsync", "mount", "tmux", "ps")
PROJECT = "~/cifake-search"
FOLDERS = Path("/var/tmp")
"""Where hosts lie: outside /tmp, which each of them has for itself."""
PREFIX = "cifake-search-hosts-"
ENTER = """
set -e
case "$4" in /tmp/*) mkdir -p "$1$4" && mount --bind "$4" "$1$4" ;; esac
mount --rbind "$1/tmp" /tmp
mount -t tmpfs tmpfs /dev/shm
mount --bind "$1/passwd" /etc/passwd
mkdir -p /run/sshd
hostname "$2"
read _
exec "$3" -D -e -f "$1/sshd_config"
"""
SSHD = """
HostKey {folder}/host_key
AuthorizedKeysFile {key}.pub
PidFile none
UsePAM no
StrictModes no
PermitRootLogin yes
MaxStartups 100
MaxSessions 100
"""


def find_lack():
    """Return why no hosts can be made here, or None."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [name for name in NEEDED if find_program(name) is None]
    if missing:
        return f"needs {', '.join(missing)}"
    tried = subprocess.run(["unshare", "--net", "--pid", "--fork", "--mount", "true"], capture_output=True, check=False)
    return None if tried.returncode == 0 else "needs the right to make namespaces"


def find_program(name):
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def run(*command, **options):
    done = subprocess.run(command, check=False, capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{shlex.join(map(str, command))}: {done.stdout}{done.stderr}"
    return done.stdout


class Host:
    """A machine of its own, as far as its processes can tell."""

    def __init__(self, folder, name, address, key):
        self.folder, self.name, self.address = folder / name, name, address
        (self.folder / "tmp" / "home").mkdir(parents=True)
        (self.folder / "tmp").chmod(0o1777)
        (self.folder / "passwd").write_text("root:x:0:0::/tmp/home:/bin/bash\nsshd:x:74:65534::/run/sshd:/bin/false\n")
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / "host_key")
        (self.folder / "sshd_config").write_text(SSHD.format(folder=self.folder, key=key))
        self._process = None

    @property
    def home(self):
        """Its home, seen from outside."""
        return self.folder / "tmp" / "home"

    @property
    def is_on(self):
        return self._process is not None

    def switch_on(self, switch):
        """Start its first process, link it to the switch, and start sshd in it."""
        flags = ["--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc"]
        first = ["sh", "-c", ENTER, "sh", str(self.folder), self.name, find_program("sshd"), sys.prefix]
        with (self.folder / "sshd.log").open("w") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "unshare", *flags, *first],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 60
        while not (children := psutil.Process(self._process.pid).children()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        self.pid = children[0].pid
        switch.plug_in(self.pid, self.name, self.address)
        self._process.stdin.write(b"\n")
        self._process.stdin.close()

    def switch_off(self):
        """End it between two instructions of all of its processes, as when the power fails."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def cut_off(self):
        """Take its network away; its processes go on."""
        self.call("ip", "link", "set", "eth0", "down")

    def call(self, *command, **options):
        """Run a command on it, as if someone sat at its keyboard, and return its output."""
        return run(*self._enter(), *command, env=self._build_environment(), **options)

    def start(self, command):
        """Start a command in the project's folder, variables before it; its `output` is the file of what it prints."""
        output = self.folder / f"output-{uuid.uuid4().hex}.txt"
        with output.open("w") as file:
            process = self._open(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
        process.output = output
        return process

    def open_terminal(self, command):
        """Start such a command on a terminal and return it and the terminal's other end."""
        ours, its = pty.openpty()
        process = self._open(command, stdin=its, stdout=its, stderr=its, start_new_session=True)
        os.close(its)
        return process, ours

    def _open(self, command, **options):
        shell = ["bash", "-c", f"cd {PROJECT} && exec env {command}"]
        kept = ["setpriv", "--pdeathsig", "KILL", *self._enter(), *shell]
        return subprocess.Popen(kept, env=self._build_environment(), **options)

    def list_processes(self):
        """Return the command lines of what runs on it."""
        lines = self.call("ps", "-eo", "stat=,args=").splitlines()
        return [line.split(maxsplit=1)[1] for line in lines if not line.startswith("Z")]

    def _enter(self):
        return ["nsenter", "--target", str(self.pid), "--net", "--uts", "--ipc", "--pid", "--mount", "--"]

    def _build_environment(self):
        bin_folder = Path(sys.executable).parent
        path = f"{bin_folder}:{os.environ['PATH']}:/usr/sbin:/sbin"
        return {"HOME": "/tmp/home", "PATH": path, "LANG": "C.UTF-8", "USER": "root", "CI": "true", "TERM": "xterm"}


class Switch:
    """What the hosts' cables end in: a bridge in a network of its own."""

    def __init__(self):
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--kill-child", "--fork", "sleep", "infinity"]
        self._process = subprocess.Popen(command)
        deadline = time.monotonic() + 60
        while not (children := psutil.Process(self._process.pid).children()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        self.pid = children[0].pid
        self._call("ip", "link", "add", "bridge", "type", "bridge")
        self._call("ip", "link", "set", "bridge", "up")

    def plug_in(self, pid, name, address):
        subprocess.run(self._enter("ip", "link", "delete", name), check=False, capture_output=True)  # of its last life
        inside = ["nsenter", "--target", str(pid), "--net", "ip"]
        run("ip", "link", "add", name, "netns", str(self.pid), "type", "veth", "peer", "eth0", "netns", str(pid))
        self._call("ip", "link", "set", name, "master", "bridge", "up")
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "address", "add", f"{address}/24", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        run(*inside, "route", "add", "default", "dev", "eth0")  # without one Ray takes 127.0.0.1 for its address

    def close(self):
        self._process.kill()
        self._process.wait()

    def _call(self, *command):
        run(*self._enter(*command))

    def _enter(self, *command):
        return ["nsenter", "--target", str(self.pid), "--net", *command]


class Cluster:
    """A laptop and hosts, and the on-prem cluster file with their addresses in it."""

    def __init__(self, folder, num_hosts=3):
        self.folder = folder
        self.shared = folder / "shared"
        self.shared.mkdir()
        key = folder / "key"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
        self.switch = Switch()
        self.laptop = Host(folder, "laptop", "10.77.0.100", key)
        self.hosts = [Host(folder, f"host{number}", f"10.77.0.{number + 1}", key) for number in range(num_hosts)]
        self.file = self.laptop.home / "cluster.yaml"
        self._copy_project(key)

    def _copy_project(self, key):
        """Put this checkout and a token onto the laptop; Python and its packages are on every host already."""
        project = self.laptop.home / "cifake-search"
        names = run("git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
        kept = [name for name in names if (ROOT / name).is_file()]
        run("rsync", "-a", "--files-from=-", f"{ROOT}/", project, input="\n".join(kept))
        shutil.copy(key, self.laptop.home / "key")
        (project / ".venv").symlink_to(sys.prefix)
        self.appoint(self.hosts[0])

    def appoint(self, head):
        """Fill in the cluster file: one host is the head, all others are workers."""
        self.head = head
        document = yaml.safe_load((ROOT / "configs/clusters/onprem.yaml").read_text())
        workers = [host.address for host in self.hosts if host is not head]
        document["provider"] |= {"head_ip": head.address, "worker_ips": workers}
        document["auth"] = {"ssh_user": "root", "ssh_private_key": "~/key"}
        commands = document["setup_commands"]
        commands[commands.index("make -C ~/cifake-search cluster")] = f"ln -sfn {sys.prefix} ~/cifake-search/.venv"
        self.file.write_text(yaml.safe_dump(document, sort_keys=False))

    def switch_on(self):
        for host in (self.laptop, *self.hosts):
            host.switch_on(self.switch)
        self.call_ray("get-auth-token", "--generate")

    def call_ray(self, *arguments, timeout=240):
        """Call Ray's command line on the laptop, in the project's folder."""
        command = f"cd {PROJECT} && ray {shlex.join(arguments)} 2>&1"
        return self.laptop.call("bash", "-c", command, timeout=timeout)

    def up(self):
        return self.call_ray("up", "--yes", "--no-config-cache", "/tmp/home/cluster.yaml")

    def down(self):
        return self.call_ray("down", "--yes", "/tmp/home/cluster.yaml")

    def list_nodes(self):
        """Return the addresses of the living nodes, as the head knows them."""
        script = (
            "import ray; ray.init(address='auto', log_to_driver=False, logging_level='ERROR');"
            "print('nodes', *(n['NodeManagerAddress'] for n in ray.nodes() if n['Alive']))"
        )
        environment = ["env", "RAY_AUTH_MODE=token"]
        output = self.head.call(*environment, sys.executable, "-c", script, timeout=60)
        return sorted(next(line for line in output.splitlines() if line.startswith("nodes")).split()[1:])

    def wait_for_nodes(self, addresses, timeout_s=120):
        deadline = time.monotonic() + timeout_s
        while (found := self.list_nodes()) != sorted(addresses):
            assert time.monotonic() < deadline, f"{found} instead of {addresses}"
            time.sleep(1)

    def close(self):
        for host in (self.laptop, *self.hosts):
            host.switch_off()
        self.switch.close()


def delete_abandoned():
    """Delete the folders of hosts whose process was killed."""
    for folder in FOLDERS.glob(f"{PREFIX}*"):
        if lock := claim(folder):
            with lock:
                shutil.rmtree(folder)


def make_folder():
    """Return a new folder for hosts, and what holds it for this process."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=FOLDERS))
    return folder, claim(folder)


def claim(folder):
    """Lock a folder for as long as what is returned is open; None if another process holds it."""
    lock = (folder / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


@pytest.fixture(scope="module")
def cluster():
    """Hosts that are on and empty."""
    if lack := find_lack():
        pytest.skip(f"hosts cannot be made here: {lack}")
    delete_abandoned()
    folder, lock = make_folder()
    with lock:
        made = Cluster(folder)
        try:
            made.switch_on()
            yield made
        finally:
            made.close()
            shutil.rmtree(folder)
