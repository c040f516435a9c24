"""What Ray's launcher asks Google Cloud for when it is given configs/clusters/gcp.yaml: of a stand-in on 127.0.0.1."""

import functools
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from google.auth.credentials import AnonymousCredentials
from googleapiclient import discovery
from ray.autoscaler._private.gcp import config as ray_gcp
from ray.autoscaler._private.gcp.node_provider import GCPNodeProvider
from ray.autoscaler._private.util import prepare_config
from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_NODE_NAME

FILE = Path(__file__).parent.parent / "configs" / "clusters" / "gcp.yaml"
PROJECT = "a-project"
EMAIL = "ray-autoscaler-sa-v1@a-project.iam.gserviceaccount.com"
ANSWERS = {
    "v1/projects/a-project": {"projectId": PROJECT, "lifecycleState": "ACTIVE"},
    f"v1/projects/a-project/serviceAccounts/{EMAIL}": {"email": EMAIL, "projectId": PROJECT},
    "v1/projects/a-project:getIamPolicy": {"bindings": []},
    "v1/projects/a-project:setIamPolicy": {},
    "compute/v1/projects/a-project": {"name": PROJECT, "commonInstanceMetadata": {}},
    "compute/v1/projects/a-project/setCommonInstanceMetadata": {"name": "op", "status": "DONE"},
    "compute/v1/projects/a-project/global/operations/op": {"name": "op", "status": "DONE"},
    "compute/v1/projects/a-project/regions/us-central1/subnetworks": {"items": [{"selfLink": "default"}]},
    "compute/v1/projects/a-project/zones/us-central1-a/instances": {"name": "op", "status": "DONE"},
    "compute/v1/projects/a-project/zones/us-central1-a/operations/op": {"name": "op", "status": "DONE"},
}
"""By path; anything else is 404."""


class Google(BaseHTTPRequestHandler):
    """Answers, and keeps what it was sent."""

    def _answer(self):
        path = self.path.split("?")[0].strip("/")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.received.append((self.command, path, json.loads(body) if body else None))
        content = json.dumps(ANSWERS.get(path, {})).encode()
        self.send_response(200 if path in ANSWERS else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = _answer  # noqa: N815 the names are http.server's

    def log_message(self, *_):
        """Print nothing."""


@pytest.fixture
def google(monkeypatch, tmp_path):
    """A server that Ray's clients talk to in place of Google's; a home without keys."""
    monkeypatch.setenv("HOME", str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), Google) as server:
        server.received = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        services = {"crm": ("cloudresourcemanager", ""), "iam": ("iam", ""), "compute": ("compute", "compute/v1/")}
        for name, (service, folder) in services.items():
            build = functools.partial(
                discovery.build,
                service,
                "v1",
                credentials=AnonymousCredentials(),
                requestBuilder=ray_gcp.build_request,
                client_options={"api_endpoint": address + folder},
            )
            monkeypatch.setattr(ray_gcp, f"_create_{name}", lambda _=None, build=build: build())
        yield server
        server.shutdown()


@pytest.fixture
def cluster(google):
    """The cluster file with the project filled in, as Ray's launcher completes it."""
    text = (
        FILE.read_text()
        .replace("REPLACE.iam", f"{PROJECT}.iam")
        .replace("project_id: REPLACE", f"project_id: {PROJECT}")
    )
    completed = ray_gcp.bootstrap_gcp(prepare_config(yaml.safe_load(text)))
    assert google.received
    return completed


def create(google, cluster, name):
    """Create a node of a type and return what Google was asked for."""
    provider = GCPNodeProvider(cluster["provider"], cluster["cluster_name"])
    tags = {TAG_RAY_NODE_KIND: "worker", TAG_RAY_NODE_NAME: "a-node"}
    provider.create_node(cluster["available_node_types"][name]["node_config"], tags, 1)
    [body] = [body for method, path, body in google.received if method == "POST" and path.endswith("/instances")]
    return body


def test_the_launcher_is_content_with_the_file_and_makes_a_key_of_its_own(google, cluster, tmp_path):
    assert Path(cluster["auth"]["ssh_private_key"]).is_relative_to(tmp_path)
    [metadata] = [body for _, path, body in google.received if path.endswith("/setCommonInstanceMetadata")]
    [key] = metadata["items"]
    assert key["key"] == "ssh-keys"
    assert key["value"].startswith("ubuntu:ssh-rsa ")


def test_the_head_is_on_demand_with_the_account_that_may_start_instances(google, cluster):
    head = create(google, cluster, "head")
    assert head["machineType"] == "zones/us-central1-a/machineTypes/n2-standard-4"
    assert "scheduling" not in head
    assert [account["email"] for account in head["serviceAccounts"]] == [
        "cifake-search-head@a-project.iam.gserviceaccount.com"
    ]
    assert head["tags"] == {"items": ["cifake-search"]}


def test_a_worker_has_a_gpu_on_the_spot_market_and_an_account_that_may_do_nothing_else(google, cluster):
    worker = create(google, cluster, "workers-l4")
    assert worker["machineType"] == "zones/us-central1-a/machineTypes/g2-standard-4"
    assert worker["scheduling"]["provisioningModel"] == "SPOT"
    assert worker["scheduling"]["instanceTerminationAction"] == "DELETE"
    assert [account["email"] for account in worker["serviceAccounts"]] == [
        "cifake-search-worker@a-project.iam.gserviceaccount.com"
    ]
    [disk] = worker["disks"]
    assert disk["autoDelete"]
    assert "/images/family/" in disk["initializeParams"]["sourceImage"]
    assert worker["labels"]["ray-cluster-name"] == "cifake-search"
    assert worker["tags"] == {"items": ["cifake-search"]}
