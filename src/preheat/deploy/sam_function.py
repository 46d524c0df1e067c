"""One function of a SAM template, and what belongs to it: logs, alarms, a queue, a schedule, its rights."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from .cloudformation import Call, att, filled, ref, sub, when
from .sam_stack import Section, layer_list

if TYPE_CHECKING:
    from .sam import Unit

ALIAS = "live"
NAMESPACE = "Preheat"
"""CloudWatch namespace of the run time's metrics."""

BATCH = 10
"""Messages of a queue that one invocation takes."""
KEEP_WARM_EVENT = {
    "version": "2.0",
    "rawPath": "/v2/health/ready",
    "rawQueryString": "",
    "headers": {},
    "requestContext": {"http": {"method": "GET", "path": "/v2/health/ready"}},
    "isBase64Encoded": False,
}
"""What the schedule sends: a readiness question as a Function URL would send it, which runs no inference."""

INLINE = """\
from preheat import Function

function = Function()
handler = function.handler
"""


def parameters(unit: Unit) -> Section:
    name, found = unit.logical, Section()
    if unit.store == "stack":
        found[f"{name}Version"] = {
            "Type": "String",
            "Default": unit.selector,
            "AllowedPattern": r"^$|^[A-Za-z0-9][A-Za-z0-9._-]*$|^sha256:[0-9a-f]{64}$",
            "Description": "The published version or alias to open. Empty: not deployed yet.",
        }
    most = min(6 * unit.timeout_s, 900)
    found |= {
        f"{name}Memory": _number(unit.memory_mb, 128, 10240, "MB. 1769 is one vCPU."),
        # A queue's messages stay hidden for six times the default, and must for longer than a run.
        f"{name}Timeout": _number(unit.timeout_s, 1, most, "Seconds."),
        f"{name}EphemeralStorage": _number(unit.ephemeral_mb, 512, 10240, "MB. SnapStart takes 512."),
        f"{name}Threads": _number(unit.threads, 1, 6, "Of the session: one for each whole vCPU."),
        f"{name}ColdStartP99": _number(
            unit.cold_start_ms, 1, 900000, "Milliseconds above which an alarm goes off."
        ),
    }
    return found


def conditions(unit: Unit) -> Section:
    """Those of the function itself, its queue and its schedule."""
    name, found = unit.logical, Section()
    if unit.store == "stack":
        found[f"{name}Deployed"] = filled(f"{name}Version")
        for shared in ("Queued", "KeptWarm", "Public"):
            both = [Call("Condition", f"{name}Deployed"), Call("Condition", shared)]
            found[f"{name}{shared}"] = Call("And", both)
    return found


def resources(unit: Unit, package: str, python: str, context: str, dockerfile: str) -> Section:
    name = unit.logical
    own = f"{name}Deployed" if unit.store == "stack" else ""
    prefix = name if own else ""
    queued = f"{prefix}Queued"
    function = _function(unit, queued, package)
    if package == "zip":
        metadata = _zip(unit, function, python)
    else:
        metadata = _image(unit, function, python, context, dockerfile)
    found: Section = {
        f"{name}Function": {
            "Type": "AWS::Serverless::Function",
            **({"Metadata": metadata} if metadata else {}),
            "Properties": function,
        },
        f"{name}Logs": {
            "Type": "AWS::Logs::LogGroup",
            "DeletionPolicy": "Delete",
            "UpdateReplacePolicy": "Delete",
            "Properties": {
                "LogGroupName": sub(f"/preheat/${{AWS::StackName}}/{unit.name}"),
                "RetentionInDays": ref("LogRetention"),
            },
        },
        **_alarms(unit),
    }
    if own:
        found = {key: _conditional(resource, own) for key, resource in found.items()}
    options = ((queued, _queue), (f"{prefix}KeptWarm", _keep_warm), (f"{prefix}Public", _public))
    for condition, make in options:
        found |= {key: _conditional(resource, condition) for key, resource in make(unit).items()}
    return found


def outputs(unit: Unit) -> Section:
    name = unit.logical
    own = {"Condition": f"{name}Deployed"} if unit.store == "stack" else {}
    queued = f"{name}Queued" if own else "Queued"
    return {
        f"{name}Url": {
            **own,
            "Description": f"POST /predict; GET /coldstart ({unit.name}).",
            "Value": att(f"{name}FunctionUrl.FunctionUrl"),
        },
        f"{name}QueueUrl": {
            "Condition": queued,
            "Description": f"Messages for {unit.name}.",
            "Value": ref(f"{name}Queue"),
        },
    }


def _conditional(resource: Section, condition: str) -> Section:
    """The condition stands second, where a reader looks for it."""
    return {"Type": resource["Type"], "Condition": condition, **resource}


def _number(default: int, low: int, high: int, said: str) -> Section:
    return {
        "Type": "Number",
        "Default": default,
        "MinValue": low,
        "MaxValue": max(high, default),
        "Description": said,
    }


def _released(unit: Unit, package: str) -> Call:
    """What makes a version another one: the model, the settings, the layers' own versions.

    The transform names the version by what the template says, not by what its parameters are and its layers
    hold; so without this the alias, and its snapshot, would stay with what was before. A version's
    description cannot be changed: CloudFormation publishes a new version instead.
    """
    names = [f"{unit.logical}{what}" for what in ("Memory", "Timeout", "EphemeralStorage", "Threads")]
    if unit.store == "stack":
        names.insert(0, f"{unit.logical}Version")
    parts: list[Call] = [ref(name) for name in (*names, "Architecture", "SnapStart", "Tracing")]
    if package == "zip":
        parts += [Call("Select", [7, Call("Split", [":", layer])]) for layer in layer_list()]
    return Call("Join", [" ", parts])


def _function(unit: Unit, queued: str, package: str) -> Section:
    name = unit.logical
    environment: Section = {
        "PREHEAT_LEDGER": sub("dynamodb://${Ledger}"),
        "PREHEAT_THREADS": ref(f"{name}Threads"),
        "POWERTOOLS_SERVICE_NAME": unit.name,
        "POWERTOOLS_METRICS_NAMESPACE": NAMESPACE,
    }
    if unit.store == "stack":
        environment["PREHEAT_ARTIFACT"] = sub(
            f"s3://${{Artifacts}}/{unit.name}/{unit.name}@${{{name}Version}}"
        )
    elif unit.store:
        environment["PREHEAT_ARTIFACT"] = f"{unit.store}/{unit.name}@{unit.selector}"
    return {
        "Description": f"Preheat: {unit.name}",
        "Architectures": [ref("Architecture")],
        "MemorySize": ref(f"{name}Memory"),
        "Timeout": ref(f"{name}Timeout"),
        "EphemeralStorage": {"Size": ref(f"{name}EphemeralStorage")},
        "SnapStart": {"ApplyOn": ref("SnapStart")},
        "AutoPublishAlias": ALIAS,
        "AutoPublishAliasAllProperties": True,
        "VersionDescription": _released(unit, package),
        "DeploymentPreference": {
            "Type": ref("Traffic"),
            # Else the deployment group would be made without its function.
            **({"PassthroughCondition": True} if unit.store == "stack" else {}),
            "Alarms": [ref(f"{name}Errors"), ref(f"{name}ColdStarts"), ref(f"{name}Durations")],
        },
        "FunctionUrlConfig": {"AuthType": ref("UrlAuth")},
        "EventInvokeConfig": {
            "MaximumRetryAttempts": 2,
            "DestinationConfig": {"OnFailure": {"Type": "SQS", "Destination": att("DeadLetters.Arn")}},
        },
        "LoggingConfig": {"LogGroup": ref(f"{name}Logs")},
        "Tracing": ref("Tracing"),
        "Environment": {"Variables": environment},
        "Policies": _policies(unit, queued),
    }


def _zip(unit: Unit, function: Section, python: str) -> Section | None:
    function["Runtime"] = f"python{python}"
    function["Layers"] = layer_list()
    if unit.code:
        function |= {"CodeUri": ".", "Handler": "app.handler"}
        return {"BuildMethod": "makefile"}
    function |= {"InlineCode": INLINE, "Handler": "index.handler"}
    return None


def _image(unit: Unit, function: Section, python: str, context: str, dockerfile: str) -> Section:
    function["PackageType"] = "Image"
    arguments = {"PYTHON": python, "EXTRAS": unit.extras, "FUNCTION": os.path.relpath(unit.code, context)}
    return {
        "DockerContext": context,
        "Dockerfile": dockerfile,
        "DockerTag": unit.name.lower(),
        "DockerBuildArgs": arguments,
    }


def _policies(unit: Unit, queued: str) -> list[Any]:
    """Item operations on the ledger, reading its own artifacts, its own queue; nothing else."""
    statements: list[Any] = [
        _allow(
            ["dynamodb:" + verb for verb in ("GetItem", "PutItem", "UpdateItem", "DeleteItem")], "Ledger.Arn"
        ),
        _allow(["dynamodb:Query"], sub("${Ledger.Arn}/index/*")),
    ]
    if unit.store:
        bucket, _, prefix = unit.store.removeprefix("s3://").partition("/")
        arn = "${Artifacts.Arn}" if unit.store == "stack" else f"arn:${{AWS::Partition}}:s3:::{bucket}"
        prefix = unit.name if unit.store == "stack" else prefix
        below = f"{prefix}/*" if prefix else "*"
        listing = _allow(["s3:ListBucket"], sub(arn))
        # Without it a missing object is "denied", and the answer could not say what the store has instead.
        listing["Condition"] = {"StringLike": {"s3:prefix": [below]}}
        statements += [_allow(["s3:GetObject"], sub(f"{arn}/{below}")), listing]
    verbs = ("ReceiveMessage", "DeleteMessage", "GetQueueAttributes")
    reading = _allow(["sqs:" + verb for verb in verbs], f"{unit.logical}Queue.Arn")
    return [
        {"Version": "2012-10-17", "Statement": statements},
        when(queued, {"Version": "2012-10-17", "Statement": [reading]}),
    ]


def _allow(actions: list[str], resource: str | Call) -> Section:
    return {
        "Effect": "Allow",
        "Action": actions,
        "Resource": att(resource) if isinstance(resource, str) else resource,
    }


def _alarms(unit: Unit) -> Section:
    """Those that a deployment is rolled back by look at the new version alone."""
    function, version = f"{unit.logical}Function", att(f"{unit.logical}Function.Version.Version")
    alias = {"FunctionName": ref(function), "Resource": sub(f"${{{function}}}:{ALIAS}")}
    deployed = {**alias, "ExecutedVersion": version}
    cold = {"service": unit.name, "function_version": version}
    limit = ref(f"{unit.logical}ColdStartP99")
    name = unit.logical
    return {
        f"{name}Errors": _alarm("AWS/Lambda", "Errors", deployed, "Sum", 0, "Invocations failed."),
        f"{name}Throttles": _alarm("AWS/Lambda", "Throttles", alias, "Sum", 0, "Invocations were throttled."),
        f"{name}Durations": _alarm(
            "AWS/Lambda", "Duration", deployed, "p99", 800 * unit.timeout_s, "Runs near the default timeout."
        ),
        f"{name}ColdStarts": _alarm(NAMESPACE, "total_ms", cold, "p99", limit, "Cold starts take too long."),
    }


def _alarm(
    namespace: str, metric: str, dimensions: Section, statistic: str, threshold: int | Call, said: str
) -> Section:
    kind = "ExtendedStatistic" if statistic.startswith("p") else "Statistic"
    return {
        "Type": "AWS::CloudWatch::Alarm",
        "Properties": {
            "AlarmDescription": said,
            "Namespace": namespace,
            "MetricName": metric,
            "Dimensions": [{"Name": key, "Value": value} for key, value in dimensions.items()],
            kind: statistic,
            "Period": 60,
            "EvaluationPeriods": 1,
            "Threshold": threshold,
            "ComparisonOperator": "GreaterThanThreshold",
            "TreatMissingData": "notBreaching",
            "AlarmActions": when("AlarmsAreSent", [ref("AlarmTopic")]),
        },
    }


def _queue(unit: Unit) -> Section:
    name = unit.logical
    return {
        f"{name}Queue": {
            "Type": "AWS::SQS::Queue",
            "DeletionPolicy": "Retain",
            "UpdateReplacePolicy": "Retain",
            "Properties": {
                # Six times the function's timeout, as the Lambda developer guide has it.
                "VisibilityTimeout": 6 * unit.timeout_s,
                "MessageRetentionPeriod": 4 * 86400,
                "SqsManagedSseEnabled": True,
                "RedrivePolicy": {"deadLetterTargetArn": att("DeadLetters.Arn"), "maxReceiveCount": 5},
            },
        },
        f"{name}QueueSource": {
            "Type": "AWS::Lambda::EventSourceMapping",
            "Properties": {
                "EventSourceArn": att(f"{name}Queue.Arn"),
                "FunctionName": ref(f"{name}Function.Alias"),
                "BatchSize": BATCH,
                "FunctionResponseTypes": ["ReportBatchItemFailures"],
            },
        },
    }


def _public(unit: Unit) -> Section:
    """What lets everybody call the URL. The transform adds it by itself only where the type is written out,
    not where it is a parameter."""
    alias = ref(f"{unit.logical}Function.Alias")
    everybody = {"FunctionName": alias, "Principal": "*"}
    return {
        f"{unit.logical}Public": {
            "Type": "AWS::Lambda::Permission",
            "Properties": {
                **everybody,
                "Action": "lambda:InvokeFunctionUrl",
                "FunctionUrlAuthType": "NONE",
            },
        },
        f"{unit.logical}PublicInvoke": {
            "Type": "AWS::Lambda::Permission",
            "Properties": {**everybody, "Action": "lambda:InvokeFunction", "InvokedViaFunctionUrl": True},
        },
    }


def _keep_warm(unit: Unit) -> Section:
    name = unit.logical
    return {
        f"{name}KeepWarm": {
            "Type": "AWS::Events::Rule",
            "Properties": {
                "Description": f"Asks one instance of {unit.name} whether it is ready.",
                "ScheduleExpression": ref("KeepWarm"),
                "Targets": [
                    {
                        "Id": unit.name,
                        "Arn": ref(f"{name}Function.Alias"),
                        "Input": json.dumps(KEEP_WARM_EVENT),
                    }
                ],
            },
        },
        f"{name}KeepWarmPermission": {
            "Type": "AWS::Lambda::Permission",
            "Properties": {
                "Action": "lambda:InvokeFunction",
                "FunctionName": ref(f"{name}Function.Alias"),
                "Principal": "events.amazonaws.com",
                "SourceArn": att(f"{name}KeepWarm.Arn"),
            },
        },
    }
