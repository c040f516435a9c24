"""Small data sets on disk, made of seeded noise; processes that end with their test."""

import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import settings
from PIL import Image

from trainables.pack import pack

COUNTS = {"train/FAKE": 14, "train/REAL": 26, "test/FAKE": 4, "test/REAL": 6}
settings.register_profile("tests", deadline=None, derandomize=True)
settings.load_profile("tests")
MARK = "CIFAKE_SEARCH_TEST"
"""Variable by which what a test started is found when it ends."""


def pytest_configure() -> None:
    """Accept the signals that tests send; a background job of a shell ignores them, and its children would too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first, so that no process is left with one of them when all others are done."""
    long = {item.path for item in items if item.get_closest_marker("ray") or item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


def _write_noise(path: Path, seed: int, *, size: int = 32) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(256, size=(size, size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def _write_images(folder: Path) -> Path:
    for start, (part, count) in enumerate(COUNTS.items()):
        for number in range(count):
            _write_noise(folder / part / f"{number}.png", 1000 * start + number)
    return folder


@pytest.fixture(scope="session")
def resnet50_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of torchvision's ResNet-50, as the published weights are one, with random weights."""
    path = tmp_path_factory.mktemp("weights") / "resnet50.pt"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        torch.save(torchvision.models.resnet50().state_dict(), path)
    return path


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Keep small trainings from waiting for threads that other processes hold."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def write_noise() -> Callable[..., Path]:
    """Write an image of noise, in the format of its name: write_noise(path, seed, size=32)."""
    return _write_noise


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """A data set of 40 training and 10 test images, all different."""
    return _write_images(tmp_path / "images")


@pytest.fixture
def image_zip(image_folder: Path) -> Path:
    """The images of image_folder in a zip."""
    return Path(shutil.make_archive(str(image_folder.parent / "zipped"), "zip", image_folder))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Where packs go; not there yet."""
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pack of 40 training images, of which 3 are left out, and 10 test images."""
    folder = _write_images(tmp_path_factory.mktemp("source"))
    shutil.copy(folder / "test/FAKE/0.png", folder / "train/FAKE/3.png")
    shutil.copy(folder / "train/REAL/0.png", folder / "train/REAL/10.png")
    shutil.copy(folder / "train/REAL/0.png", folder / "train/REAL/11.png")
    return pack(folder, tmp_path_factory.mktemp("cache"))


@pytest.fixture
def pack_copy(packed: Path, tmp_path: Path) -> Path:
    """The same pack, to be damaged."""
    return Path(shutil.copytree(packed, tmp_path / packed.name))


@contextlib.contextmanager
def _end_processes() -> Iterator[Callable[..., subprocess.Popen[Any]]]:
    mark = secrets.token_hex(8)
    started: list[subprocess.Popen[Any]] = []

    def start(command: Any, *, env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[Any]:
        environment = {**(os.environ if env is None else env), MARK: mark}
        kept = ["setpriv", "--pdeathsig", "KILL", *command]  # it ends with this process, too, however that ends
        started.append(subprocess.Popen(kept, env=environment, **options))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            process.kill()
        while left := _list_marked(mark):
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        for process in started:
            with process:  # which closes its pipes
                process.wait()


def _list_marked(mark: str) -> list[int]:
    """Return the processes that were started with a mark in their environment; children inherit it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended
            if f"{MARK}={mark}".encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[Any]]]:
    """Start a process, as subprocess.Popen does; it and all that it started are killed when the test ends."""
    with _end_processes() as start:
        yield start


@pytest.fixture(scope="module")
def spawn_for_module() -> Iterator[Callable[..., subprocess.Popen[Any]]]:
    """Start a process that is killed, with all that it started, after the last test of the file."""
    with _end_processes() as start:
        yield start


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an S3 on 127.0.0.1."""
    path = tmp_path_factory.mktemp("s3") / "log"
    with path.open("wb") as log, _end_processes() as start:
        process = start([sys.executable, "-m", "moto.server", "--port", "0"], stdout=log, stderr=log)
        while (found := re.search(r"Running on (http://127\.0\.0\.1:\d+)", path.read_text())) is None:
            assert process.poll() is None, path.read_text()
            time.sleep(0.05)
        yield found[1]


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket, and credentials for it in the environment."""
    import s3fs

    known = {"ENDPOINT_URL": s3_server, "ACCESS_KEY_ID": "someone", "SECRET_ACCESS_KEY": "word"}
    for name, value in {**known, "DEFAULT_REGION": "us-east-1", "EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"bucket-{secrets.token_hex(4)}"
    s3fs.S3FileSystem().mkdir(name)
    return name


@pytest.fixture
def run_on_small_disk(tmp_path: Path) -> Callable[..., str]:
    """Run a script on a disk of a few kilobytes: run_on_small_disk(script, "64k", *arguments) -> what it printed.

    sys.argv[1] is the disk's folder. The script may give it more room: `mount -o remount,size=1m FOLDER`.
    """
    enter = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*enter, "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()

    def run(script: str, size: str, *arguments: object) -> str:
        mount = f'mount -t tmpfs -o size={size} tmpfs "$2" && exec "$0" -c "$@"'
        command = [*enter, mount, sys.executable, script, str(disk), *map(str, arguments)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
