"""The cluster files: what Ray itself makes of them, and what they must say for a cluster to work and to be safe."""

import copy
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer
import yaml
from ray.autoscaler._private.command_runner import SSHCommandRunner
from ray.autoscaler._private.resource_demand_scheduler import ResourceDemandScheduler
from ray.autoscaler._private.util import prepare_config, validate_config
from typer.testing import CliRunner

from search.cluster.autoscaler import prefer_available
from search.run import main

ROOT = Path(__file__).parent.parent
CLUSTERS = [ROOT / "cluster.yaml", *sorted((ROOT / "configs" / "clusters").glob("*.yaml"))]
CLOUDS = [path for path in CLUSTERS if path.stem != "onprem"]


@pytest.fixture(params=CLUSTERS, ids=lambda path: path.stem)
def cluster(request):
    """A cluster file with Ray's defaults filled in, as `ray up` does it."""
    return prepare_config(yaml.safe_load(request.param.read_text()))


def load_types(path):
    """Return the head's node type and those of the workers."""
    document = yaml.safe_load(path.read_text())
    types = copy.deepcopy(document["available_node_types"])
    return types.pop(document["head_node_type"]), types


def test_every_cluster_file_is_one_to_ray(cluster):
    validate_config(cluster)  # raises
    assert cluster["head_node_type"] in cluster["available_node_types"]


def test_a_misspelt_key_is_none_to_ray(cluster):
    with pytest.raises(Exception, match="idle_timeout_minute'"):
        validate_config(cluster | {"idle_timeout_minute": 1})


def test_workers_of_a_local_cluster_come_up_only_with_the_first_autoscaler(cluster):
    assert "RAY_enable_autoscaler_v2=0" in cluster["head_start_ray_commands"][-1]


def test_every_node_demands_and_has_the_token(cluster):
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for role in ("head", "worker"):
        assert "RAY_AUTH_MODE=token" in cluster[f"{role}_start_ray_commands"][-1]
        assert "chmod 600 ~/.ray/auth_token" in cluster[f"{role}_setup_commands"]


def test_every_instruction_that_makes_the_token_keeps_it_from_other_users():
    for path in (*CLUSTERS, ROOT / "configs/clusters/README.md"):
        made = [line for line in path.read_text().splitlines() if "get-auth-token --generate" in line]
        assert made
        assert all("--generate && chmod 600 ~/.ray/auth_token" in line for line in made)


def test_the_dashboard_is_for_the_head_alone(cluster):
    assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][-1]


def test_every_node_gets_this_project_but_nothing_that_was_made_here(cluster):
    assert cluster["file_mounts"]["~/cifake-search"] == "."
    assert {".venv", "results"} <= set(cluster["rsync_exclude"])
    assert "make -C ~/cifake-search cluster" in cluster["worker_setup_commands"]


class LocalRunner:
    """Carries out Ray's rsync commands with the other machine's folders on this one."""

    DEVNULL = subprocess.DEVNULL

    def check_call(self, command, **_):
        *before, target = command
        subprocess.run([*before, target.removeprefix("ubuntu@host:")], check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("rsync") is None, reason="needs rsync")
def test_an_archive_of_data_is_sent_when_it_is_named_and_not_with_the_project(cluster, tmp_path):
    """By Ray's own command, which leaves out the same whether a folder or one file is sent."""
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    (here / "search").mkdir(parents=True)
    shutil.copy(ROOT / ".gitignore", here)
    for name in ("cifake.zip", "search/run.py"):
        (here / name).write_text(name)
    runner = SSHCommandRunner("", "head", None, {"ssh_user": "ubuntu"}, "sent", LocalRunner(), use_internal_ip=False)
    runner.ssh_ip, runner.ssh_control_path = "host", None  # no ssh is called: nothing is left in /tmp for it
    options = {name: cluster[name] for name in ("rsync_exclude", "rsync_filter")}
    runner.run_rsync_up(f"{here}/", f"{there}/project/", options)
    runner.run_rsync_up(f"{here}/cifake.zip", f"{there}/cifake.zip", options)
    sent = {path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_file()}
    assert sent == {"project/.gitignore", "project/search/run.py", "cifake.zip"}


def test_an_on_prem_cluster_keeps_all_of_its_hosts():
    cluster = prepare_config(yaml.safe_load((ROOT / "configs/clusters/onprem.yaml").read_text()))
    [node_type] = cluster["available_node_types"].values()
    assert (node_type["min_workers"], node_type["max_workers"]) == (2, 2)


@pytest.mark.parametrize("path", CLOUDS, ids=lambda path: path.stem)
def test_a_cloud_costs_nothing_but_the_head_while_nothing_runs(path):
    head, workers = load_types(path)
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert workers
    assert all((worker["min_workers"], worker["max_workers"]) == (0, 8) for worker in workers.values())


def test_the_head_is_on_demand_and_the_workers_are_spot():
    head, workers = load_types(ROOT / "cluster.yaml")
    assert "InstanceMarketOptions" not in head["node_config"]
    assert {worker["node_config"]["InstanceMarketOptions"]["MarketType"] for worker in workers.values()} == {"spot"}
    head, workers = load_types(ROOT / "configs/clusters/gcp.yaml")
    assert "scheduling" not in head["node_config"]
    assert {worker["node_config"]["scheduling"]["provisioningModel"] for worker in workers.values()} == {"SPOT"}


def test_the_preferred_worker_on_aws_is_the_one_whose_name_ray_sorts_last():
    _, workers = load_types(ROOT / "cluster.yaml")
    assert [workers[name]["node_config"]["InstanceType"] for name in sorted(workers, reverse=True)] == [
        "g6.xlarge",
        "g5.xlarge",
    ]


def test_the_autoscaler_on_aws_is_told_to_take_the_other_type_after_a_refusal(monkeypatch):
    """Through the variable that the head's start command sets, as Ray reads it."""
    document = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    [variable] = re.findall(r"(RAY_AUTOSCALER_\S+)=(\S+)", document["head_start_ray_commands"][-1])
    monkeypatch.setenv(*variable)
    scheduler = ResourceDemandScheduler(None, document["available_node_types"], 8, document["head_node_type"], 100)
    assert scheduler.utilization_scorer is prefer_available


def test_no_node_on_aws_has_a_group_that_ray_opens_to_the_world():
    head, workers = load_types(ROOT / "cluster.yaml")
    for node in (head, *workers.values()):
        assert node["node_config"]["SecurityGroupIds"] == ["sg-REPLACE"]
        assert node["node_config"]["IamInstanceProfile"]["Name"].startswith("cifake-search-")


RUNS = re.findall(r"python -m search\.run ((?:\\\n|[^'\n])+)", (ROOT / "configs/clusters/README.md").read_text())


@pytest.mark.parametrize("command", RUNS)
def test_every_search_in_the_readme_of_clusters_parses(command, monkeypatch):
    app = typer.Typer()
    app.command()(main)
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(app, [*shlex.split(command.replace("\\\n", "")), "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "Rungs:" in result.output


def test_the_readme_of_clusters_has_a_search_for_each_way_to_start_one():
    assert len(RUNS) == 5  # on hosts, as a job, on AWS, on Google Cloud, on Kubernetes


def test_a_search_on_a_cloud_waits_until_its_first_worker_is_installed():
    text = (ROOT / "configs/clusters/README.md").read_text()
    searches = re.findall(r"ray exec (cluster\.yaml|\S+/gcp\.yaml) --tmux '([^']+)'", text)
    assert [name for name, _ in searches] == ["cluster.yaml", "configs/clusters/gcp.yaml"]
    assert all("--set cluster.wait_s=900" in command for _, command in searches)


def test_one_thing_is_left_to_fill_in_on_aws():
    text = (ROOT / "cluster.yaml").read_text()
    assert set(re.findall(r"\S*REPLACE\S*", text.partition("cluster_name:")[2])) == {"[sg-REPLACE]"}
