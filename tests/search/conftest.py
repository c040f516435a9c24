"""A Ray and a saved model; and the other side of Weights & Biases: its files read back, a stand-in of its server."""

import contextlib
import dataclasses
import json
import os
import re
import struct
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from search.cluster.nodes import connect
from search.config.load import dump, parse
from search.config.schema import StudyConfig
from search.evaluation.model_file import describe_preprocessing, save_model
from search.evaluation.model_record import SHARED, ModelRecord
from search.evaluation.result import RATES
from search.record.provenance import describe_code
from trainables.config import build_train_config, list_values
from trainables.models.model import build_model

MODEL_PARAMS = {"filters": 4, "dense_units": 8}


@pytest.fixture(scope="module")
def _shared_ray() -> Iterator[contextlib.ExitStack]:
    """Holds what `two_cores` connects to, until the last test of the file."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture(autouse=True)
def _end_shared_ray(request: pytest.FixtureRequest, _shared_ray: contextlib.ExitStack) -> None:
    """Leave a test that starts a Ray of its own alone with it."""
    if "two_cores" not in request.fixturenames and request.node.get_closest_marker("ray"):
        _shared_ray.close()


@pytest.fixture
def two_cores(_shared_ray: contextlib.ExitStack) -> None:
    """A connection to a Ray with two cores, which the tests of a file that ask for it share."""
    if not ray.is_initialized():
        _shared_ray.enter_context(connect(parse({"name": "x", "cluster": {"cpus": 2}})))


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
    """Stand-in of the W&B API on 127.0.0.1, which keeps what it is sent.

    `manner` is accept, refuse, fail or hang, and `refused` names operations that it does not know.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.manner = "accept"
        self.refused: set[str] = set()
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.uploads: dict[str, bytes] = {}
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def runs(self) -> list[dict[str, Any]]:
        """The variables of every mutation that made or changed a run."""
        return self.list_variables("UpsertBucket")

    def list_variables(self, operation: str) -> list[dict[str, Any]]:
        return [body["variables"] for _, body in list(self.requests) if _name_operation(body) == operation]

    def list_streamed(self, run_id: str) -> list[dict[str, Any]]:
        return [body for path, body in list(self.requests) if path.endswith(f"/{run_id}/file_stream")]

    def list_history(self, run_id: str) -> list[dict[str, Any]]:
        """The rows as the real server keeps them: each where its offset puts it."""
        lines: dict[int, str] = {}
        for body in self.list_streamed(run_id):
            if file := body.get("files", {}).get("wandb-history.jsonl"):
                lines |= dict(enumerate(file["content"], start=file["offset"]))
        return [json.loads(lines[number]) for number in sorted(lines)]

    def describe(self, run_id: str) -> dict[str, Any]:
        """What the server knows of a run: the last word on each of its fields."""
        known: dict[str, Any] = {"tags": [], "summary": {}, "state": "running", "exit_code": None}
        for run in self.runs:
            if run["name"] == run_id:
                known |= {key: run[key] for key in ("groupName", "sweep", "tags", "config") if run.get(key)}
        for body in self.list_streamed(run_id):
            if file := body.get("files", {}).get("wandb-summary.json"):
                known["summary"] = json.loads(file["content"][-1])
            known["state"] = "running"
            if body.get("complete"):
                known["exit_code"] = body["exitcode"]
                known["state"] = {0: "finished", 1: "failed"}.get(body["exitcode"], "killed")
        return known

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        variables = body.get("variables") or {}
        answers: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "Viewer": self._describe_viewer,
            "GetDefaultEntity": self._describe_viewer,
            "UpsertBucket": self._describe_run,
            "UpsertSweep": self._describe_sweep,
            "RunResumeStatus": lambda run: {"model": {"bucket": self._describe_resumed(run["name"])}},
            "Runs": lambda query: {"project": self._list_runs(json.loads(query["filters"])["group"])},
            "CreateRunFiles": self._place_files,
        }
        name = _name_operation(body)
        return answers[name](variables) if name in answers else self._answer_artifact(body)

    def _describe_viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        viewer = {"id": "1", "username": "someone", "entity": "someone", "flags": "{}", "teams": {"edges": []}}
        return {"viewer": viewer}

    def _describe_run(self, run: dict[str, Any]) -> dict[str, Any]:
        bucket = {"id": "1", "name": run["name"], "displayName": "", "config": "{}", "project": _name(run["project"])}
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def _describe_sweep(self, sweep: dict[str, Any]) -> dict[str, Any]:
        known = {"name": f"sweep{len(self.list_variables('UpsertSweep'))}", "project": _name(sweep["projectName"])}
        return {"upsertSweep": {"sweep": known, "configValidationWarnings": []}}

    def _place_files(self, run: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.url}/{name}"} for name in run["files"]]
        return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Let a client be killed while it talks."""

    def _answer_artifact(self, body: dict[str, Any]) -> dict[str, Any]:
        variables = body.get("variables") or {}
        match _name_operation(body):
            case "ArtifactType":
                return {"project": {"artifact": None}}
            case "CreateArtifact":
                sequence = {"id": "1", "latestArtifact": None}
                return {"createArtifact": {"artifact": {"id": "1", "state": "PENDING", "artifactSequence": sequence}}}
            case "CreateArtifactManifest" | "UpdateArtifactManifest" as name:
                manifest = {"id": "1", "file": self._place("manifest")}
                return {name[0].lower() + name[1:]: {"artifactManifest": manifest}}
            case "CreateArtifactFiles":
                files = [self._place(file["name"]) for file in variables["input"]["artifactFiles"]]
                edges = [{"node": {**file, "storagePath": "x", "artifact": {"id": "1"}}} for file in files]
                return {"createArtifactFiles": {"files": {"edges": edges}}}
            case "CommitArtifact":
                return {"commitArtifact": {"artifact": {"id": "1", "digest": "1"}}}
        return {}

    def _place(self, name: str) -> dict[str, Any]:
        return {"id": "1", "name": name, "displayName": name, "uploadUrl": f"{self.url}/{name}", "uploadHeaders": []}

    def _describe_resumed(self, run_id: str) -> dict[str, Any] | None:
        if not (history := self.list_history(run_id)):
            return None
        tail = json.dumps([json.dumps(history[-1])])
        counts = {"historyLineCount": len(history), "eventsLineCount": 0, "logLineCount": 0}
        texts = {"historyTail": tail, "eventsTail": "[]", "summaryMetrics": "{}", "config": "{}"}
        return {"id": "1", "name": run_id, "wandbConfig": '{"t": 1}', "tags": [], **counts, **texts}

    def _list_runs(self, group: str) -> dict[str, Any]:
        nodes = []
        for name in dict.fromkeys(run["name"] for run in self.runs if run.get("groupName") == group):
            known = self.describe(name)
            lines = len(self.list_history(name))
            fields = {"id": "1", "name": name, "displayName": name, "group": group, "sweepName": known.get("sweep")}
            told = {"tags": known["tags"], "state": known["state"], "historyLineCount": lines, "readOnly": False}
            rest = {
                **dict.fromkeys(["jobType", "commit", "heartbeatAt", "description", "notes"]),
                "user": {"name": "x"},
            }
            nodes.append({"projectId": "1", "createdAt": "2026-01-01T00:00:00", **fields, **told, **rest})
        edges = [{"node": node, "cursor": "x"} for node in nodes]
        page = {"endCursor": "x", "hasNextPage": False}
        return {
            "internalId": "1",
            "runCount": len(nodes),
            "readOnly": False,
            "runs": {"edges": edges, "pageInfo": page},
        }


def _name(project: str) -> dict[str, Any]:
    return {"id": "1", "name": project, "entity": {"id": "1", "name": "someone"}}


def _name_operation(body: dict[str, Any]) -> str | None:
    found = re.search(r"(?:query|mutation)\s+(\w+)", body.get("query", ""))
    return found[1] if found else None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        match "reject" if _name_operation(body) in self.server.refused else self.server.manner:
            case "accept":
                answer = self.server.answer(body)
                self.server.requests.append((self.path, body))
                self._reply(200, {"data": answer})
            case "refuse":
                self._reply(401, {"data": None, "errors": [{"message": "user is not logged in"}]})
            case "reject":
                self._reply(400, {"data": None, "errors": [{"message": "unknown operation"}]})
            case "fail":
                self._reply(500, {})
            case "hang":
                self.server.released.wait()
                self.close_connection = True

    def do_PUT(self) -> None:
        self.server.uploads[self.path[1:]] = self.rfile.read(int(self.headers["Content-Length"]))
        self._reply(200, {})

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _reply(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        with contextlib.suppress(OSError):  # a client that is killed does not wait
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
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
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
        "params": MODEL_PARAMS if retraining.get("architecture", "cnn") == "cnn" else {},
        "train_seed": 5,
        "max_epochs": 3,
        "epochs": 2,
        "max_train_images": None,
        "split_seed": 0,
        "fingerprint": "f" * 64,
        "threshold": 0.5,
        "temperature": 1.0,
    }
    return ModelRecord(
        retraining=known | retraining,
        parameters=list_values(build_train_config("cnn", MODEL_PARAMS, epochs=3, seed=5)),
        tested={name: (known | retraining)[name] for name in SHARED}
        | {"threshold": 0.5, "parameters": 2105, "confusion": ((9, 1), (1, 9)), "cost": {}}
        | {"metrics": {**dict.fromkeys(RATES, 0.9), "brier": 0.1, "loss": 0.3}},
        preprocessing=describe_preprocessing(("FAKE", "REAL"), build_train_config("cnn", {}, epochs=3, seed=5)),
        hardware={"type": "cpu", "name": "a CPU", "threads": 2, "cpus": 2.0, "gpus": 0.0},
        code={
            "commit": "c0ffee",
            "dirty": False,
            "source": "0" * 64,
            "python": "3.11",
            "packages": {"torch": "2.14.1"},
        },
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


@pytest.fixture
def describe_record() -> Callable[[StudyConfig], dict[str, Any]]:
    """Returns the study.yaml of a study without id whose images no test needs."""

    def describe(config: StudyConfig) -> dict[str, Any]:
        data = {"fingerprint": "0" * 64, "counts": {}, "skipped": [], "leaked": 0, "duplicates": 0}
        return {"config": dump(config), "data": data, "code": describe_code()}

    return describe
