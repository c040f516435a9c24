"""A saved model; and the other side of Weights & Biases: its files read back, and a stand-in of its server."""

import dataclasses
import json
import os
import struct
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from search.model_file import PREPROCESSING, ModelRecord, save_model
from trainables.config import build_train_config, list_values
from trainables.models import build_model

MODEL_PARAMS = {"filters": 4, "dense_units": 8}


@dataclasses.dataclass
class WandbFile:
    """What one .wandb file says: a run, or one segment of it."""

    run: Any = None
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    summary: dict[str, Any] = dataclasses.field(default_factory=dict)
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)
    exit_code: int | None = None

    @property
    def config(self) -> dict[str, Any]:
        return {item.key: json.loads(item.value_json) for item in self.run.config.update if item.key != "_wandb"}

    def take(self, record: Any) -> None:
        kind = record.WhichOneof("record_type")
        if kind == "run":
            self.run = record.run
        elif kind == "history":
            self.history.append({_key(item): json.loads(item.value_json) for item in record.history.item})
        elif kind == "summary":
            self.summary.update({_key(item): json.loads(item.value_json) for item in record.summary.update})
        elif kind == "metric":
            self.metrics[record.metric.name or record.metric.glob_name] = record.metric
        elif kind == "exit":
            self.exit_code = record.exit.exit_code


def _key(item: Any) -> str:
    return item.key or ".".join(item.nested_key)


def _list_records(content: bytes) -> Iterator[bytes]:
    """Yield the records of a LevelDB log behind a header of 7 bytes: blocks of 32 KiB of (crc, length, kind) parts."""
    position, record = 7, b""
    while position + 7 <= len(content):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # the whole record, or its last part
            yield record
            record = b""


@pytest.fixture
def read_wandb_files() -> Callable[[Path], list[WandbFile]]:
    """Reads every .wandb file below a folder, in order of time and name."""
    from wandb.proto import wandb_internal_pb2

    def read(directory: Path) -> list[WandbFile]:
        files = []
        for path in sorted(directory.rglob("*.wandb"), key=lambda path: (path.stat().st_mtime_ns, path.name)):
            files.append(WandbFile())
            for content in _list_records(path.read_bytes()):
                files[-1].take(wandb_internal_pb2.Record.FromString(content))
        return files

    return read


class WandbServer(ThreadingHTTPServer):
    """Stand-in of the W&B API on 127.0.0.1; `manner` is accept, refuse, fail or hang."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.manner = "accept"
        self.last_step: int | None = None
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.released = threading.Event()

    @property
    def runs(self) -> list[dict[str, Any]]:
        """The variables of every mutation that made or changed a run."""
        return [body["variables"] for _, body in self.requests if body.get("operationName") == "UpsertBucket"]

    def list_history(self, run_id: str) -> list[dict[str, Any]]:
        streamed = [body for path, body in self.requests if path.endswith(f"/{run_id}/file_stream")]
        files = [body["files"]["wandb-history.jsonl"] for body in streamed if "wandb-history.jsonl" in body["files"]]
        return [json.loads(line) for file in files for line in file["content"]]

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        variables = body.get("variables", {})
        match body.get("operationName"):
            case "UpsertBucket":
                project = {"id": "1", "name": variables["project"], "entity": {"id": "1", "name": "someone"}}
                bucket = {"id": "1", "name": variables["name"], "displayName": "", "config": "{}", "project": project}
                return {"upsertBucket": {"bucket": bucket, "inserted": True}}
            case "CreateRunFiles":
                return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": []}}
            case "RunResumeStatus":
                return {"model": {"bucket": self._describe_resumed(variables["name"])}}
        return {}

    def _describe_resumed(self, run_id: str) -> dict[str, Any] | None:
        if self.last_step is None:
            return None
        tail = json.dumps([json.dumps({"_step": self.last_step})])
        counts = {"historyLineCount": self.last_step, "eventsLineCount": 0, "logLineCount": 0}
        texts = {"historyTail": tail, "eventsTail": "[]", "summaryMetrics": "{}", "config": "{}"}
        return {"id": "1", "name": run_id, "wandbConfig": '{"t": 1}', "tags": [], **counts, **texts}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, body))
        match self.server.manner:
            case "accept":
                self._reply(200, {"data": self.server.answer(body)})
            case "refuse":
                self._reply(401, {"data": None, "errors": [{"message": "user is not logged in"}]})
            case "fail":
                self._reply(500, {})
            case "hang":
                self.server.released.wait()
                self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _reply(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def wandb_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An account without key or settings; in the end no process of W&B may be left."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    yield home
    import wandb

    wandb.teardown()
    assert not [child for child in psutil.Process().children() if child.name().startswith("wandb")]


@pytest.fixture
def wandb_server(wandb_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A running stand-in, with the environment pointing at it."""
    with WandbServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
        monkeypatch.setenv("WANDB_CONFIG_DIR", str(wandb_home))
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


def _make_record(**retraining: Any) -> ModelRecord:
    known = {
        "label": "cnn-seed0",
        "architecture": "cnn",
        "rank": 1,
        "seed": 0,
        "trial": 7,
        "params": MODEL_PARAMS,
        "train_seed": 5,
        "max_epochs": 3,
        "epochs": 2,
        "max_train_images": None,
        "split_seed": 0,
        "fingerprint": "f" * 64,
    }
    return ModelRecord(
        retraining=known | retraining,
        parameters=list_values(build_train_config("cnn", MODEL_PARAMS, epochs=3, seed=5)),
        tested={"parameters": 2105, "threshold": 0.5, "metrics": {"accuracy": 0.9}},
        preprocessing=PREPROCESSING | {"flip_average": False},
        hardware={"type": "cpu", "name": "a CPU", "threads": 2, "cpus": 2.0, "gpus": 0.0},
        code={"commit": "c0ffee", "dirty": False, "python": "3.11", "packages": {"torch": "2.14.1"}},
    )


@pytest.fixture
def make_record() -> Callable[..., ModelRecord]:
    """Make the record of a small CNN; named fields of its retraining are set otherwise."""
    return _make_record


@pytest.fixture
def saved_model(tmp_path: Path) -> Path:
    """The file of weights of a small CNN that was never trained, with its record and card beside it."""
    folder = tmp_path / "models"
    folder.mkdir()
    config = build_train_config("cnn", MODEL_PARAMS, epochs=3, seed=5)
    save_model(folder, _make_record(), build_model(config.model, seed=1).state_dict())
    return folder / "cnn-seed0.safetensors"
