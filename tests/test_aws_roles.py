"""What configs/clusters/aws/account.yaml lets head and workers do: judged as AWS judges it, asked by Ray itself.

moto makes the account's stack and answers Ray, but judges no conditions. So `is_allowed` does, of the kinds that the
file uses; one that it does not know fails the test.
"""

import copy
import fnmatch
import warnings
from pathlib import Path

import boto3
import pytest
import yaml
from moto import mock_aws
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.aws.utils import client_cache, resource_cache
from ray.autoscaler._private.util import prepare_config

ROOT = Path(__file__).parent.parent
ACCOUNT = ROOT / "configs" / "clusters" / "aws" / "account.yaml"
REGION = "us-west-2"
EC2 = f"arn:aws:ec2:{REGION}:123456789012:"
ROLE = "arn:aws:iam::123456789012:role/"
INSTANCE = f"{EC2}instance/i-1"
OURS = {"aws:RequestTag/ray-cluster-name": "cifake-search"}
OTHERS = {"aws:RequestTag/ray-cluster-name": "others"}
STARTING = {"ec2:CreateAction": "RunInstances"}
KNOWN = {"Effect", "Action", "Resource", "Condition", "Principal"}


def as_list(value):
    return value if isinstance(value, list) else [value]


def is_fulfilled(operator, wanted, actual):
    """Return whether a condition holds; a key that the request lacks fulfils none of these."""
    if operator == "StringEquals":
        return actual in as_list(wanted)
    if operator == "Bool":
        return actual is not None and actual.lower() in [each.lower() for each in as_list(wanted)]
    raise AssertionError(f"a condition that this test cannot judge: {operator}")


def applies(statement, action, resource, context):
    assert statement.keys() <= KNOWN, statement
    conditions = [
        is_fulfilled(operator, wanted, context.get(key))
        for operator, keys in statement.get("Condition", {}).items()
        for key, wanted in keys.items()
    ]
    return (
        any(fnmatch.fnmatchcase(action.lower(), pattern.lower()) for pattern in as_list(statement["Action"]))
        and any(fnmatch.fnmatchcase(resource, pattern) for pattern in as_list(statement["Resource"]))
        and all(conditions)
    )


def is_allowed(statements, action, resource, context):
    """Judge a request: what is denied is denied, and what nothing allows too.

    Source: AWS Identity and Access Management User Guide, policy evaluation logic.
    """
    effects = {
        each["Effect"]
        for each in statements
        if applies(each, action, resource, {"aws:SecureTransport": "true"} | context)
    }
    return "Deny" not in effects and "Allow" in effects


def list_checks(operation, params):
    """Return what AWS asks of a caller for a request of Ray's, as triples of action, resource and context.

    Source: Service Authorization Reference, actions of Amazon EC2.
    """
    if operation.startswith("Describe"):
        return [(f"ec2:{operation}", "*", {})]
    tagged = {"ec2:ResourceTag/ray-cluster-name": "cifake-search"}  # the instances of these requests are Ray's
    if operation == "CreateTags":
        requested = {f"aws:RequestTag/{tag['Key']}": tag["Value"] for tag in params["Tags"]}
        return [("ec2:CreateTags", f"{EC2}instance/{name}", tagged | requested) for name in params["Resources"]]
    if operation == "TerminateInstances":
        return [("ec2:TerminateInstances", f"{EC2}instance/{name}", tagged) for name in params["InstanceIds"]]
    assert operation == "RunInstances", operation
    [specification] = params["TagSpecifications"]
    assert specification["ResourceType"] == "instance"
    requested = {f"aws:RequestTag/{tag['Key']}": tag["Value"] for tag in specification["Tags"]}
    parts = [
        *(f"security-group/{group}" for group in params["SecurityGroupIds"]),
        *(f"{kind}/x" for kind in ("network-interface", "spot-instances-request", "volume")),
        f"subnet/{params['SubnetId']}",
        f"key-pair/{params['KeyName']}",
    ]
    assert params["ImageId"].startswith("resolve:ssm:/")
    parameter = f"arn:aws:ssm:{REGION}::parameter{params['ImageId'].removeprefix('resolve:ssm:')}"
    role = ROLE + params["IamInstanceProfile"]["Name"]
    return [
        ("ec2:RunInstances", f"{EC2}instance/x", requested | {"ec2:InstanceType": params["InstanceType"]}),
        *(("ec2:RunInstances", EC2 + part, {}) for part in parts),
        ("ec2:RunInstances", f"arn:aws:ec2:{REGION}::image/ami-1", {}),
        ("ec2:CreateTags", f"{EC2}instance/x", requested | STARTING),
        ("ssm:GetParameters", parameter, {}),
        ("iam:PassRole", role, {"iam:PassedToService": "ec2.amazonaws.com"}),
    ]


@pytest.fixture(scope="module")
def account(tmp_path_factory):
    """The account after its stack was made, and what Ray asked of it to start, tag and end a worker of each type."""
    with mock_aws(), pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*AWS::S3::BucketPolicy")  # moto's stacks lack it
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # for the key that Ray makes
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        for cache in (client_cache, resource_cache):
            cache.cache_clear()
        yield make_account()
        for cache in (client_cache, resource_cache):
            cache.cache_clear()


def make_account():
    ec2, stacks = boto3.client("ec2", REGION), boto3.client("cloudformation", REGION)
    network = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"][0]["VpcId"]
    values = {"SshFrom": "203.0.113.0/24", "Vpc": network}
    stacks.create_stack(
        StackName="cifake-search",
        TemplateBody=ACCOUNT.read_text(),
        Capabilities=["CAPABILITY_NAMED_IAM"],
        Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in values.items()],
    )
    outputs = stacks.describe_stacks(StackName="cifake-search")["Stacks"][0]["Outputs"]
    printed = {output["OutputKey"]: output["OutputValue"] for output in outputs}
    document = yaml.safe_load((ROOT / "cluster.yaml").read_text().replace("sg-REPLACE", printed["SecurityGroup"]))
    resources = read_template(printed["Bucket"])["Resources"]
    policy = resources["BucketPolicy"]["Properties"]["PolicyDocument"]
    return printed | {
        "properties": resources["Bucket"]["Properties"],
        "roles": {role: [*list_statements(role), *policy["Statement"]] for role in ("head", "worker")},
        "calls": watch_ray(document),
        "types": [each["node_config"]["InstanceType"] for each in document["available_node_types"].values()],
    }


def read_template(bucket):
    """Return the account's file with the bucket's name in it; other references stay as they are written."""

    class Loader(yaml.SafeLoader):
        pass

    def resolve(loader, _, node):
        return (
            loader.construct_scalar(node)
            .replace("${", "")
            .replace("}", "")
            .replace("Bucket.Arn", f"arn:aws:s3:::{bucket}")
        )

    Loader.add_multi_constructor("!", resolve)
    return yaml.load(ACCOUNT.read_text(), Loader)


def list_statements(role):
    iam = boto3.client("iam", REGION)
    statements = []
    for policy in iam.list_attached_role_policies(RoleName=f"cifake-search-{role}")["AttachedPolicies"]:
        version = iam.get_policy_version(PolicyArn=policy["PolicyArn"], VersionId="v1")["PolicyVersion"]
        statements += version["Document"]["Statement"]
    return statements


def watch_ray(document):
    """Let Ray's provider do what the autoscaler on the head does with it, and return its requests."""
    whole = bootstrap_aws(prepare_config(document))
    provider = AWSNodeProvider(whole["provider"], whole["cluster_name"])
    calls = []
    for resource in (provider.ec2, provider.ec2_fail_fast):
        resource.meta.client.meta.events.register(
            "provide-client-params.ec2",
            lambda params, model, **_: calls.append((model.name, copy.deepcopy(params))),
        )
    for name, node_type in whole["available_node_types"].items():
        if name != whole["head_node_type"]:
            tags = {"ray-node-type": "worker", "ray-user-node-type": name, "ray-node-name": "ray-cifake-search-worker"}
            provider.create_node(node_type["node_config"], tags, 1)
    nodes = provider.non_terminated_nodes({"ray-node-type": "worker"})
    provider.set_node_tags(nodes[0], {"ray-node-status": "up-to-date"})
    provider.terminate_nodes(nodes)
    assert provider.non_terminated_nodes({}) == []
    return calls


def test_the_head_may_do_all_that_ray_does_there(account):
    operations = [operation for operation, _ in account["calls"]]
    assert set(operations) == {"RunInstances", "DescribeInstances", "CreateTags", "TerminateInstances"}
    for operation, params in account["calls"]:
        for check in list_checks(operation, params):
            assert is_allowed(account["roles"]["head"], *check), check


def test_a_worker_may_do_nothing_of_what_ray_does_on_the_head(account):
    for operation, params in account["calls"]:
        for check in list_checks(operation, params):
            assert not is_allowed(account["roles"]["worker"], *check), check


def test_each_role_may_do_what_it_must_and_no_more(account):
    may = {
        role: {action for each in statements if each["Effect"] == "Allow" for action in as_list(each["Action"])}
        for role, statements in account["roles"].items()
    }
    storage = {"s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"}
    instances = {"ec2:Describe*", "ec2:RunInstances", "ec2:CreateTags", "ec2:TerminateInstances"}
    others = {"iam:GetInstanceProfile", "iam:PassRole", "iam:CreateServiceLinkedRole", "ssm:GetParameters"}
    assert may == {"head": storage | instances | others, "worker": storage}


@pytest.mark.parametrize(
    ("action", "resource", "context"),
    [
        ("ec2:RunInstances", INSTANCE, OURS | {"ec2:InstanceType": "p5.48xlarge"}),
        ("ec2:RunInstances", INSTANCE, OURS | {"ec2:InstanceType": "m7i.xlarge"}),
        ("ec2:RunInstances", INSTANCE, OTHERS | {"ec2:InstanceType": "g6.xlarge"}),
        ("ec2:RunInstances", INSTANCE, {"ec2:InstanceType": "g6.xlarge"}),
        ("ec2:RunInstances", f"{EC2}security-group/sg-of-others", {}),
        ("ec2:RunInstances", "arn:aws:ec2:eu-west-1:123456789012:subnet/x", {}),
        ("ec2:CreateTags", INSTANCE, OURS),
        ("ec2:CreateTags", INSTANCE, OURS | {"ec2:ResourceTag/ray-cluster-name": "others"}),
        ("ec2:CreateTags", INSTANCE, OTHERS | STARTING),
        ("ec2:CreateTags", f"{EC2}volume/vol-1", OURS | STARTING),
        ("ec2:TerminateInstances", INSTANCE, {}),
        ("ec2:TerminateInstances", INSTANCE, {"ec2:ResourceTag/ray-cluster-name": "others"}),
        ("ec2:StopInstances", INSTANCE, {"ec2:ResourceTag/ray-cluster-name": "cifake-search"}),
        ("ec2:DeleteTags", INSTANCE, {"ec2:ResourceTag/ray-cluster-name": "cifake-search"}),
        ("ec2:AuthorizeSecurityGroupIngress", f"{EC2}security-group/x", {}),
        ("iam:PassRole", f"{ROLE}cifake-search-head", {"iam:PassedToService": "ec2.amazonaws.com"}),
        ("iam:PassRole", f"{ROLE}cifake-search-worker", {"iam:PassedToService": "lambda.amazonaws.com"}),
        ("iam:PassRole", f"{ROLE}cifake-search-worker", {}),
        ("ssm:GetParameters", f"arn:aws:ssm:{REGION}:123456789012:parameter/password", {}),
    ],
)  # fmt: skip
def test_the_head_may_not(account, action, resource, context):
    assert not is_allowed(account["roles"]["head"], action, resource, context)


@pytest.mark.parametrize(
    ("action", "name", "head", "worker"),
    [
        ("s3:GetObject", "results/x/study.yaml", True, True),
        ("s3:PutObject", "results/x/models/cnn-seed0.json", True, True),
        ("s3:DeleteObject", "results/x/checkpoints/trial-3/0123456789abcdef/000004", True, True),
        ("s3:DeleteObject", "x/checkpoints/.reaching-01234567", True, True),
        ("s3:DeleteObject", "results/x/study.lock", True, False),
        ("s3:DeleteObject", "results/.reaching-01234567/driver", True, False),
        ("s3:DeleteObject", ".reaching-01234567/driver", True, False),
        ("s3:DeleteObject", "results/x/journal/00000000000000000000", False, False),
        ("s3:DeleteObject", "results/x/study.yaml", False, False),
        ("s3:DeleteObject", "results/x/models/cnn-seed0.safetensors", False, False),
        ("s3:DeleteObjectVersion", "results/x/checkpoints/trial-3/0123456789abcdef/000004", False, False),
        ("s3:PutBucketVersioning", "", False, False),
        ("s3:PutLifecycleConfiguration", "", False, False),
        ("s3:DeleteBucketPolicy", "", False, False),
        ("s3:ListBucket", "", True, True),
    ],
)
def test_a_worker_deletes_checkpoints_the_head_locks_too_and_neither_deletes_the_record(
    account, action, name, head, worker
):
    resource = f"arn:aws:s3:::{account['Bucket']}{name and f'/{name}'}"
    judged = [is_allowed(account["roles"][role], action, resource, {}) for role in ("head", "worker")]
    assert judged == [head, worker]
    in_the_clear = {"aws:SecureTransport": "false"}
    assert not any(is_allowed(account["roles"][role], action, resource, in_the_clear) for role in ("head", "worker"))
    assert not is_allowed(account["roles"]["head"], action, resource.replace(account["Bucket"], "another"), {})


def test_a_condition_of_an_unknown_kind_cannot_be_judged():
    with pytest.raises(AssertionError, match="cannot judge: StringLike"):
        is_allowed(
            [{"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {"StringLike": {"a": "*"}}}], "a", "b", {}
        )


def test_the_head_may_start_the_types_that_the_cluster_file_lists_for_workers(account):
    head, *workers = account["types"]
    types = {
        name
        for name in [head, *workers, "p5.48xlarge"]
        if is_allowed(account["roles"]["head"], "ec2:RunInstances", INSTANCE, OURS | {"ec2:InstanceType": name})
    }
    assert types == set(workers)


def test_what_is_overwritten_in_the_bucket_stays_for_a_week(account):
    assert account["properties"]["VersioningConfiguration"] == {"Status": "Enabled"}
    [rule] = account["properties"]["LifecycleConfiguration"]["Rules"]
    assert rule == {
        "Status": "Enabled",
        "NoncurrentVersionExpiration": {"NoncurrentDays": 7},
        "ExpiredObjectDeleteMarker": True,
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
    }
