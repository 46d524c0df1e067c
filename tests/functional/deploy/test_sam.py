"""The SAM templates: checked by their own tools, built without a container, transformed, and deployed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from preheat.deploy.facts import read
from preheat.deploy.sam_function import KEEP_WARM_EVENT
from preheat.function import Function
from preheat.ledger import dynamodb_table
from preheat.ledger.dynamodb import DynamoLedger

from ...conftest import ROOT
from ..store.samples import fails, make_artifact, succeeds
from .conftest import sam, transformed
from .stack import Stack

TEMPLATES = [ROOT / "sam" / name for name in ("template.yaml", "image.yaml")]


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_the_templates_pass_their_linters_without_a_warning(template: Path, tmp_path: Path) -> None:
    validated = sam("sam", "validate", "--lint", "--template-file", template, cwd=tmp_path)
    assert validated.returncode == 0, validated.stdout + validated.stderr
    linted = sam("cfn-lint", "--include-checks", "I", "--", template, cwd=tmp_path)
    assert (linted.returncode, linted.stdout) == (0, "")


def test_sam_build_needs_no_container(built: Path) -> None:
    filetype, embed = (built / ".aws-sam" / "build" / f"{name}Function" for name in ("Filetype", "Embed"))
    assert (filetype / "app.py").exists()
    assert (filetype / "artifact" / "manifest.json").exists()
    assert [path.name for path in embed.iterdir()] == ["app.py"]  # its artifact comes from the bucket


def test_a_function_without_a_version_of_its_model_is_left_out_whole(packaged: Path) -> None:
    """Nothing that is made regardless refers to what is made under a condition that is false."""
    template = transformed(packaged, {})
    absent = {
        name for name, resource in template["Resources"].items() if resource.get("Condition") is not None
    }
    assert {"EmbedFunction", "EmbedFunctionDeploymentGroup", "EmbedErrors", "EmbedLogs"} <= absent
    always = {name: r for name, r in template["Resources"].items() if name not in absent}
    # What stands under Fn::If is chosen by the same parameters; all else must not name what is absent.
    for name, resource in always.items():
        assert not absent & set(references(resource)), name


def references(value: Any) -> list[str]:
    if isinstance(value, list):
        return [name for item in value for name in references(item)]
    if not isinstance(value, dict):
        return []
    if "Fn::If" in value:
        return []
    if set(value) == {"Ref"}:
        return [value["Ref"]]
    if set(value) == {"Fn::GetAtt"}:
        return [value["Fn::GetAtt"][0]]
    if set(value) == {"Fn::Sub"}:
        text = value["Fn::Sub"][0] if isinstance(value["Fn::Sub"], list) else value["Fn::Sub"]
        return [name.partition(".")[0] for name in re.findall(r"\$\{([^}]+)\}", text)]
    return [name for item in value.values() for name in references(item)]


def test_every_function_is_published_behind_an_alias(deployed: Stack) -> None:
    functions = deployed.client("lambda")
    for name in ("FiletypeFunction", "EmbedFunction"):
        made = functions.get_function(FunctionName=deployed.values[name])["Configuration"]
        assert (made["Runtime"], made["Architectures"]) == ("python3.12", ["x86_64"])
        assert (made["Handler"], made["EphemeralStorage"]) == ("app.handler", {"Size": 512})
        alias = functions.get_alias(FunctionName=deployed.values[name], Name="live")
        assert alias["FunctionVersion"] == "1"
        url = functions.get_function_url_config(FunctionName=deployed.values[name], Qualifier="live")
        assert url["AuthType"] == "AWS_IAM"
        said = deployed.of("AWS::Lambda::Function")[name]  # the rest is what moto leaves out
        layers = [arn.split(":")[6] for arn in said["Layers"]]
        assert layers == ["preheat-runtime-x86-64", "preheat-preheat-x86-64"]
        assert said["SnapStart"] == {"ApplyOn": "PublishedVersions"}
    code = deployed.client("s3").list_objects_v2(Bucket="bucket")["Contents"]
    assert max(entry["Size"] for entry in code) > 10_000_000  # filetype's package holds its artifact


def test_only_invokers_of_the_account_may_call_the_urls(deployed: Stack) -> None:
    permissions = deployed.of("AWS::Lambda::Permission").values()
    assert {said["Principal"] for said in permissions} == {"events.amazonaws.com"}


def test_everybody_may_call_a_url_that_is_deployed_so(packaged: Path) -> None:
    """Without the permission beside it a URL of type NONE answers 403 to all."""
    template = transformed(packaged, {"UrlAuth": "NONE"})
    said = [r for r in template["Resources"].values() if r["Type"] == "AWS::Lambda::Permission"]
    public = [r["Properties"] for r in said if r["Condition"] == "Public"]
    assert [(p["Action"], p["Principal"]) for p in public] == [
        ("lambda:InvokeFunctionUrl", "*"),
        ("lambda:InvokeFunction", "*"),
    ]
    assert public[0]["FunctionUrlAuthType"] == "NONE"
    assert public[1]["InvokedViaFunctionUrl"] is True


def test_a_new_version_gets_some_of_the_traffic_and_is_rolled_back_by_alarms(deployed: Stack) -> None:
    groups = deployed.client("codedeploy")
    name = next(iter(deployed.of("AWS::CodeDeploy::Application")))
    application = deployed.values[name]
    for function in ("Filetype", "Embed"):
        group = groups.get_deployment_group(
            applicationName=application, deploymentGroupName=f"{function}FunctionDeploymentGroup"
        )["deploymentGroupInfo"]
        assert group["deploymentConfigName"] == "CodeDeployDefault.LambdaCanary10Percent5Minutes"
        said = deployed.of("AWS::CodeDeploy::DeploymentGroup")[f"{function}FunctionDeploymentGroup"]
        alarms = {alarm["Name"] for alarm in said["AlarmConfiguration"]["Alarms"]}
        assert alarms == {f"{function}{kind}" for kind in ("Errors", "ColdStarts", "Durations")}
        assert "DEPLOYMENT_STOP_ON_ALARM" in group["autoRollbackConfiguration"]["events"]


def test_alarms_look_at_the_new_version(deployed: Stack) -> None:
    alarms = {
        alarm["AlarmName"]: alarm for alarm in deployed.client("cloudwatch").describe_alarms()["MetricAlarms"]
    }
    kinds = ("Errors", "Throttles", "Durations", "ColdStarts")
    assert set(alarms) == {f"{f}{kind}" for f in ("Filetype", "Embed") for kind in kinds}
    cold = alarms["EmbedColdStarts"]
    assert (cold["Namespace"], cold["MetricName"]) == ("Preheat", "total_ms")
    assert cold["ExtendedStatistic"] == "p99"
    assert {d["Name"]: d["Value"] for d in cold["Dimensions"]} == {
        "service": "embed",
        "function_version": "1",
    }
    errors = {d["Name"]: d["Value"] for d in alarms["EmbedErrors"]["Dimensions"]}
    assert errors["ExecutedVersion"] == "1"
    assert errors["Resource"] == f"{deployed.values['EmbedFunction']}:live"
    assert all(a["AlarmActions"] == ["arn:aws:sns:us-east-1:123456789012:alarms"] for a in alarms.values())


def test_the_ledger_can_use_its_table(deployed: Stack) -> None:
    table = deployed.values["Ledger"]
    dynamodb = deployed.client("dynamodb")
    described, ttl = dynamodb_table.describe(dynamodb, table), dynamodb_table.ttl(dynamodb, table)
    assert dynamodb_table.lacks(described, ttl) == []
    environment = deployed.of("AWS::Lambda::Function")["FiletypeFunction"]["Environment"]["Variables"]
    assert environment["PREHEAT_LEDGER"] == f"dynamodb://{table}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in deployed.endpoint.environ.items():
            patch.setenv(name, value)
        ledger = DynamoLedger(environment["PREHEAT_LEDGER"])
        ledger.check()
        claim = ledger.claim("key", "print", "fence", lease=10, keep=60)
        assert ledger.commit("key", "fence", b"outcome", keep=60) == b"outcome"
        ledger.close()
    assert claim == type(claim)("fence", 1, b"")


def test_a_function_may_touch_its_own_things_alone(deployed: Stack) -> None:
    role = deployed.of("AWS::IAM::Role")["EmbedFunctionRole"]
    statements = [s for policy in role["Policies"] for s in policy["PolicyDocument"]["Statement"]]
    table, bucket = deployed.attributes["Ledger.Arn"], deployed.attributes["Artifacts.Arn"]
    assert all("*" not in action for s in statements for action in listed(s["Action"]))
    assert {resource for s in statements for resource in listed(s["Resource"])} == {
        table,
        f"{table}/index/*",
        f"{bucket}/embed/*",
        bucket,
        deployed.attributes["EmbedQueue.Arn"],
        deployed.attributes["DeadLetters.Arn"],
    }
    on_bucket = next(s for s in statements if s["Resource"] == bucket)
    assert on_bucket["Condition"] == {"StringLike": {"s3:prefix": ["embed/*"]}}
    named = deployed.of("AWS::Lambda::Function")["EmbedFunction"]["Environment"]["Variables"]
    assert named["PREHEAT_ARTIFACT"] == f"s3://{deployed.values['Artifacts']}/embed/embed@live"


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def test_the_bucket_is_private_encrypted_and_versioned(deployed: Stack) -> None:
    s3, bucket = deployed.client("s3"), deployed.values["Artifacts"]
    block = s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    assert set(block.values()) == {True}
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    rule = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"][0]
    assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    (statement,) = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])["Statement"]
    assert (statement["Effect"], statement["Condition"]) == (
        "Deny",
        {"Bool": {"aws:SecureTransport": "false"}},
    )


def test_another_model_or_setting_is_another_version_of_the_function(packaged: Path) -> None:
    """Its snapshot holds the model, so an alias that stays on the old version would keep the old one.

    CloudFormation replaces a version whose description is another: all that can change a function without
    changing its template stands there.
    """
    template = transformed(packaged, {"EmbedVersion": "one"})
    resources = template["Resources"]
    for name in ("FiletypeFunction", "EmbedFunction"):
        (version,) = [
            r["Properties"]
            for key, r in resources.items()
            if r["Type"] == "AWS::Lambda::Version" and key.startswith(name)
        ]
        function = {k: v for k, v in resources[name]["Properties"].items() if k != "Layers"}
        decides = set(references(function)) & set(template["Parameters"])
        assert decides
        named = set(references(version["Description"]))
        assert decides <= named
    layers = {n for n, r in resources.items() if r["Type"] == "AWS::Lambda::LayerVersion"}
    assert len(layers) == 4
    assert all(layer in json.dumps(version["Description"]) for layer in layers)


def test_a_version_says_what_it_was_made_of(deployed: Stack) -> None:
    said = deployed.of("AWS::Lambda::Version")
    (embed,) = [p["Description"] for name, p in said.items() if name.startswith("Embed")]
    assert embed.startswith("live ")
    assert embed.endswith(" x86_64 PublishedVersions PassThrough 1 1")
    assert len(embed) <= 256


def test_what_is_published_as_documented_is_found_and_readable(deployed: Stack, tmp_path: Path) -> None:
    bucket, environ = deployed.values["Artifacts"], deployed.endpoint.environ
    artifact, s3 = make_artifact(tmp_path / "embed", name="embed"), deployed.client("s3")
    place = f"s3://{bucket}/embed/embed"
    assert "permission denied" in fails(environ, "publish", artifact, place, status=1)  # moto speaks no TLS
    policy = s3.get_bucket_policy(Bucket=bucket)["Policy"]
    s3.delete_bucket_policy(Bucket=bucket)
    succeeds(environ, "publish", artifact, place, "--alias", "live")
    named = deployed.of("AWS::Lambda::Function")["EmbedFunction"]["Environment"]["Variables"]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value)
        found = read(named["PREHEAT_ARTIFACT"], {})
    assert (found.manifest.name, found.alias) == ("embed", "live")
    keys = [o["Key"] for o in s3.list_objects_v2(Bucket=bucket)["Contents"]]
    s3.put_bucket_policy(Bucket=bucket, Policy=policy)
    assert keys
    assert all(key.startswith("embed/") for key in keys)  # what the function's policy lets it read


def test_an_image_is_transformed_without_layers(tmp_path: Path) -> None:
    text = TEMPLATES[1].read_text()
    image = "123456789012.dkr.ecr.us-east-1.amazonaws.com/preheat@sha256:" + "0" * 64
    (tmp_path / "image.yaml").write_text(
        text.replace("PackageType: Image", f"PackageType: Image\n      ImageUri: {image}")
    )
    template = transformed(tmp_path / "image.yaml", {})
    functions = {
        n: r["Properties"] for n, r in template["Resources"].items() if r["Type"] == "AWS::Lambda::Function"
    }
    assert set(functions) == {"FiletypeFunction", "EmbedFunction"}
    for said in functions.values():
        assert (said["PackageType"], said["Code"]) == ("Image", {"ImageUri": image})
        assert not {"Layers", "Runtime", "Handler"} & set(said)
    assert "Artifacts" not in template["Resources"]


def test_queues_hand_back_what_failed(deployed: Stack) -> None:
    sources = deployed.client("lambda").list_event_source_mappings()["EventSourceMappings"]
    assert len(sources) == 2
    for source in sources:
        assert source["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    queue = deployed.client("sqs").get_queue_attributes(
        QueueUrl=deployed.values["EmbedQueue"], AttributeNames=["All"]
    )["Attributes"]
    timeout = deployed.client("lambda").get_function(FunctionName=deployed.values["EmbedFunction"])
    assert int(queue["VisibilityTimeout"]) >= 6 * timeout["Configuration"]["Timeout"]
    redrive = json.loads(queue["RedrivePolicy"])
    assert redrive["deadLetterTargetArn"] == deployed.attributes["DeadLetters.Arn"]


def test_keep_warm_asks_for_readiness_and_runs_nothing(
    deployed: Stack, filetype_artifact: Path, cache: Path
) -> None:
    targets = deployed.client("events").list_targets_by_rule(Rule="FiletypeKeepWarm")["Targets"]
    event = json.loads(targets[0]["Input"])
    assert event == KEEP_WARM_EVENT
    assert targets[0]["Arn"] == deployed.values["FiletypeFunctionAliaslive"]
    function = Function(environ={"PREHEAT_ARTIFACT": str(filetype_artifact), "PREHEAT_CACHE": str(cache)})
    answer = function.handler(event)
    assert answer["statusCode"] == 200
    assert "server-timing" not in answer["headers"], "nothing ran"


def test_options_that_are_off_make_nothing(packaged: Path) -> None:
    template = transformed(packaged, {"EmbedVersion": "live"})
    conditions = {
        name: resource.get("Condition")
        for name, resource in template["Resources"].items()
        if resource["Type"] in ("AWS::Events::Rule", "AWS::Lambda::EventSourceMapping")
    }
    assert set(conditions.values()) == {"Queued", "KeptWarm", "EmbedQueued", "EmbedKeptWarm"}
    assert template["Parameters"]["KeepWarm"]["Default"] == ""
    assert template["Parameters"]["Queues"]["Default"] == "false"
