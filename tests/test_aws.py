"""`ray up cluster.yaml` against a local AWS, up to the first ssh: what is asked of the cloud.

Everything runs in a network of its own that has nothing but a loopback, so that nothing can leave the machine.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import boto3
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config

ROOT = Path(__file__).parent.parent
ACCOUNT = ROOT / "configs" / "clusters" / "aws" / "account.yaml"
ENTER = ["unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child"]
RANGE = "203.0.113.0/24"
REGION = "us-west-2"
PORT = "5000"


def find_lack():
    """Return why no network can be made here, or None."""
    if shutil.which("ip", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
        return "needs iproute2"
    if shutil.which("unshare") is None or subprocess.run([*ENTER, "true"], check=False, capture_output=True).returncode:
        return "needs the right to make namespaces"
    return None


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """What a cloud was asked for, by this file run as a program in a network of its own."""
    if lack := find_lack():
        pytest.skip(f"no network can be made here: {lack}")
    home = tmp_path_factory.mktemp("home")
    (home / "bin").mkdir()
    ssh = home / "bin" / "ssh"
    ssh.write_text(f'#!/bin/sh\necho "$@" >> {home}/ssh-calls\nexit 255\n')
    ssh.chmod(0o755)
    environment = {
        "HOME": str(home),
        "PATH": f"{ssh.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin",
        "PYTHONPATH": str(ROOT),
        "LANG": "C.UTF-8",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{PORT}",
        "AWS_ACCESS_KEY_ID": "made",
        "AWS_SECRET_ACCESS_KEY": "up",
        "AWS_EC2_METADATA_DISABLED": "true",
        "MOTO_IAM_LOAD_MANAGED_POLICIES": "true",
        "AUTOSCALER_NODE_START_WAIT_S": "1",  # for so long Ray tries to reach the head
    }
    command = 'ip link set lo up && exec "$@"'
    done = subprocess.run(
        [*ENTER, "sh", "-c", command, "sh", sys.executable, __file__, str(home)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((home / "asked.json").read_text()) | {"ssh": (home / "ssh-calls").read_text()}


def ask(home):
    """Make the account's stack, bring the cluster up, start one worker of each type; write down what there is then."""
    with (home / "server.log").open("w") as log:
        server = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", PORT], stdout=log, stderr=log)
    try:
        wait_for_answer()
        group = make_account()
        document = yaml.safe_load((ROOT / "cluster.yaml").read_text().replace("sg-REPLACE", group))
        (home / "cluster.yaml").write_text(yaml.safe_dump(document))
        subprocess.run(["ray", "get-auth-token", "--generate"], check=True, capture_output=True)
        up = ["ray", "up", "--yes", "--no-config-cache", str(home / "cluster.yaml")]
        printed = subprocess.run(up, capture_output=True, text=True, check=False).stdout
        start_workers(document)
        answers = {"printed": printed, "group": group, **describe_cloud()}
        (home / "asked.json").write_text(json.dumps(answers, default=str))
    finally:
        server.kill()
        server.wait()


def wait_for_answer():
    while True:
        try:
            socket.create_connection(("127.0.0.1", int(PORT))).close()
        except ConnectionRefusedError:
            time.sleep(0.1)
        else:
            return


def make_account():
    """Do what the account's file says and return the security group that it prints."""
    ec2, stacks = boto3.client("ec2", REGION), boto3.client("cloudformation", REGION)
    network = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"][0]["VpcId"]
    values = {"SshFrom": RANGE, "Vpc": network}
    stacks.create_stack(
        StackName="cifake-search",
        TemplateBody=ACCOUNT.read_text(),
        Capabilities=["CAPABILITY_NAMED_IAM"],
        Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in values.items()],
    )
    outputs = stacks.describe_stacks(StackName="cifake-search")["Stacks"][0]["Outputs"]
    return next(output["OutputValue"] for output in outputs if output["OutputKey"] == "SecurityGroup")


def start_workers(document):
    """Start a worker of each type through Ray's provider, as the autoscaler on the head does."""
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.providers import _get_node_provider

    whole = bootstrap_aws(prepare_config(document))
    provider = _get_node_provider(whole["provider"], whole["cluster_name"])
    for name, node_type in whole["available_node_types"].items():
        if name != whole["head_node_type"]:
            provider.create_node(node_type["node_config"], {"ray-node-type": "worker", "ray-user-node-type": name}, 1)


def describe_cloud():
    """Return what there is, as boto3 tells it."""
    ec2 = boto3.client("ec2", REGION)
    found = [instance for group in ec2.describe_instances()["Reservations"] for instance in group["Instances"]]
    return {
        "instances": {tags(instance)["ray-user-node-type"]: instance for instance in found},
        "groups": ec2.describe_security_groups()["SecurityGroups"],
    }


def tags(instance):
    return {tag["Key"]: tag["Value"] for tag in instance["Tags"]}


@pytest.mark.slow
def test_the_launcher_goes_as_far_as_ssh_and_no_further(asked):
    head = asked["instances"]["head"]
    assert f"ubuntu@{head['PublicIpAddress']}" in asked["ssh"]
    assert "Launched a new head node" in asked["printed"]


@pytest.mark.slow
def test_the_head_is_a_small_machine_on_demand_and_the_workers_are_gpus_on_the_spot_market(asked):
    types = {name: instance["InstanceType"] for name, instance in asked["instances"].items()}
    assert types == {"head": "m7i.xlarge", "workers-2-g6": "g6.xlarge", "workers-1-g5": "g5.xlarge"}
    lifecycles = {name: instance.get("InstanceLifecycle") for name, instance in asked["instances"].items()}
    assert lifecycles == {"head": None, "workers-2-g6": "spot", "workers-1-g5": "spot"}


@pytest.mark.slow
def test_only_ssh_from_the_stated_range_comes_in_and_everything_among_the_nodes(asked):
    for instance in asked["instances"].values():
        assert [group["GroupId"] for group in instance["SecurityGroups"]] == [asked["group"]]
    [group] = [group for group in asked["groups"] if group["GroupId"] == asked["group"]]
    rules = {
        (
            rule["IpProtocol"],
            rule.get("FromPort"),
            *(source["CidrIp"] for source in rule["IpRanges"]),
            *(source["GroupId"] for source in rule["UserIdGroupPairs"]),
        )
        for rule in group["IpPermissions"]
    }
    assert rules == {("tcp", 22, RANGE), ("-1", None, asked["group"])} or rules == {
        ("tcp", 22, RANGE),
        ("-1", -1, asked["group"]),
    }
    assert not any(rule["Ipv6Ranges"] for rule in group["IpPermissions"])
    assert {found["GroupName"] for found in asked["groups"]} == {"default", "cifake-search"}


@pytest.mark.slow
def test_the_head_has_the_heads_role_and_every_worker_the_workers(asked):
    profiles = {name: instance["IamInstanceProfile"]["Arn"] for name, instance in asked["instances"].items()}
    assert {name: arn.rpartition("/")[2] for name, arn in profiles.items()} == {
        "head": "cifake-search-head",
        "workers-2-g6": "cifake-search-worker",
        "workers-1-g5": "cifake-search-worker",
    }


@pytest.mark.slow
def test_every_node_runs_the_image_that_amazon_names_as_the_newest(asked):
    parameter = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
    assert {instance["ImageId"] for instance in asked["instances"].values()} == {f"resolve:ssm:{parameter}"}


@pytest.mark.slow
def test_every_node_carries_the_name_of_its_cluster_and_keeps_its_roles_keys(asked):
    for name, instance in asked["instances"].items():
        assert tags(instance)["ray-cluster-name"] == "cifake-search"
        assert tags(instance)["ray-node-type"] == ("head" if name == "head" else "worker")
        assert instance["MetadataOptions"]["HttpTokens"] == "required"
        [disk] = instance["BlockDeviceMappings"]
        assert disk["Ebs"]["DeleteOnTermination"]


@pytest.mark.slow
def test_the_accounts_file_is_one_to_cloudformation():
    program = Path(sys.executable).with_name("cfn-lint")
    done = subprocess.run([program, ACCOUNT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


if __name__ == "__main__":
    ask(Path(sys.argv[1]))
