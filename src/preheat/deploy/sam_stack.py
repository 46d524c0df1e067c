"""What the functions of a SAM template share: parameters, layers, the ledger's table, the bucket."""

from __future__ import annotations

from typing import Any

from ..ledger import dynamodb_table
from .cloudformation import Call, att, filled, ref, sub, when
from .facts import ARCHITECTURES, ARM64, X86_64

Section = dict[str, Any]

LAYERS = ("runtime", "preheat")
TRAFFIC = (
    *("AllAtOnce", "Canary10Percent5Minutes", "Canary10Percent10Minutes", "Canary10Percent15Minutes"),
    *("Canary10Percent30Minutes", "Linear10PercentEvery1Minute", "Linear10PercentEvery2Minutes"),
    *("Linear10PercentEvery3Minutes", "Linear10PercentEvery10Minutes"),
)
RETENTION = (1, 3, 5, 7, 14, 30, 60, 90, 180, 365, 731)


def shared(
    package: str, python: str, architecture: str, layers: str, *, bucket: bool
) -> tuple[Section, Section, Section, Section]:
    """Parameters, conditions, resources and outputs."""
    resources: Section = {}
    conditions: Section = {"AlarmsAreSent": filled("AlarmTopic"), "KeptWarm": filled("KeepWarm")}
    conditions["Queued"] = Call("Equals", [ref("Queues"), "true"])
    conditions["Public"] = Call("Equals", [ref("UrlAuth"), "NONE"])
    if package == "zip":
        conditions["Arm"] = Call("Equals", [ref("Architecture"), ARM64])
        conditions["Intel"] = Call("Equals", [ref("Architecture"), X86_64])
        for layer in LAYERS:
            for machine, condition in ((X86_64, "Intel"), (ARM64, "Arm")):
                resources[_layer(layer, condition)] = {
                    "Type": "AWS::Serverless::LayerVersion",
                    "Condition": condition,
                    "Properties": {
                        "LayerName": sub(f"${{AWS::StackName}}-{layer}-{machine.replace('_', '-')}"),
                        "ContentUri": f"{layers}/{layer}-python{python}-{machine}.zip",
                        "CompatibleRuntimes": [f"python{python}"],
                        "CompatibleArchitectures": [machine],
                        "RetentionPolicy": "Delete",
                    },
                }
    resources["Ledger"] = _ledger()
    resources["DeadLetters"] = {
        "Type": "AWS::SQS::Queue",
        "DeletionPolicy": "Retain",
        "UpdateReplacePolicy": "Retain",
        "Properties": {"MessageRetentionPeriod": 14 * 86400, "SqsManagedSseEnabled": True},
    }
    outputs: Section = {
        "LedgerTable": {"Description": "The ledger's table.", "Value": ref("Ledger")},
        "DeadLetterQueue": {
            "Description": "What could not be answered: queued messages, asynchronous invocations.",
            "Value": ref("DeadLetters"),
        },
    }
    if bucket:
        resources |= _bucket()
        outputs["ArtifactBucket"] = {
            "Description": "preheat publish DIR s3://BUCKET/NAME/NAME",
            "Value": ref("Artifacts"),
        }
    return _parameters(package, architecture), conditions, resources, outputs


def layer_list() -> list[Call]:
    """A function's layers."""
    return [when("Arm", ref(_layer(layer, "Arm")), ref(_layer(layer, "Intel"))) for layer in LAYERS]


def interface(parameters: Section) -> Section:
    """How the console groups the parameters."""
    own = [name for name in parameters if name[:1].isupper() and name not in _parameters("zip", X86_64)]
    groups = [{"Label": {"default": "The stack"}, "Parameters": [n for n in parameters if n not in own]}]
    groups.append({"Label": {"default": "Each function"}, "Parameters": own})
    return {"AWS::CloudFormation::Interface": {"ParameterGroups": groups}}


def _layer(layer: str, condition: str) -> str:
    return f"{layer.capitalize()}Layer{condition}"


def _parameters(package: str, architecture: str) -> Section:
    return {
        "Architecture": {
            "Type": "String",
            "Default": architecture,
            "AllowedValues": list(ARCHITECTURES),
            "Description": "Deploy on the architecture that the artifacts were built on.",
        },
        "SnapStart": {
            "Type": "String",
            # A container image's SnapStart depends on its base image and the region.
            "Default": "PublishedVersions" if package == "zip" else "None",
            "AllowedValues": ["PublishedVersions", "None"],
            "Description": "Restore instances from a snapshot of each published version.",
        },
        "Traffic": {
            "Type": "String",
            "Default": "Canary10Percent5Minutes",
            "AllowedValues": list(TRAFFIC),
            "Description": "How the alias moves to a new version; an alarm in that time moves it back.",
        },
        "UrlAuth": {
            "Type": "String",
            "Default": "AWS_IAM",
            "AllowedValues": ["AWS_IAM", "NONE"],
            "Description": "Who may call the function URLs. NONE: everybody, or who has a key or a token.",
        },
        "KeepWarm": {
            "Type": "String",
            "Default": "",
            "AllowedPattern": r"^$|^rate\(.+\)$|^cron\(.+\)$",
            "Description": "When to ask an instance if it is ready, as in rate(5 minutes). Empty: never.",
        },
        "Queues": {
            "Type": "String",
            "Default": "false",
            "AllowedValues": ["true", "false"],
            "Description": "Whether each function takes batches from a queue of its own.",
        },
        "AlarmTopic": {
            "Type": "String",
            "Default": "",
            "AllowedPattern": "^$|^arn:.*$",
            "Description": "ARN of the SNS topic that alarms are sent to. Empty: none.",
        },
        "LogRetention": {
            "Type": "Number",
            "Default": 30,
            "AllowedValues": list(RETENTION),
            "Description": "Days that logs are kept.",
        },
        "Tracing": {
            "Type": "String",
            "Default": "PassThrough",
            "AllowedValues": ["Active", "PassThrough"],
            "Description": "X-Ray: trace by itself, or only where the caller does.",
        },
    }


def _ledger() -> Section:
    """The table that the ledger's DynamoDB store makes by itself, with TTL."""
    return {
        "Type": "AWS::DynamoDB::Table",
        # Outcomes live for hours; what is lost with the table is that retries run once more.
        "DeletionPolicy": "Delete",
        "UpdateReplacePolicy": "Delete",
        "Properties": {
            **dynamodb_table.TABLE,
            "TimeToLiveSpecification": {"AttributeName": dynamodb_table.TTL, "Enabled": True},
            "SSESpecification": {"SSEEnabled": True},
        },
    }


def _bucket() -> Section:
    return {
        "Artifacts": {
            "Type": "AWS::S3::Bucket",
            "DeletionPolicy": "Retain",
            "UpdateReplacePolicy": "Retain",
            "Properties": {
                "BucketEncryption": {
                    "ServerSideEncryptionConfiguration": [
                        {"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
                    ]
                },
                "VersioningConfiguration": {"Status": "Enabled"},
                "PublicAccessBlockConfiguration": {
                    name: True
                    for name in (
                        *("BlockPublicAcls", "BlockPublicPolicy"),
                        *("IgnorePublicAcls", "RestrictPublicBuckets"),
                    )
                },
                "OwnershipControls": {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
                "LifecycleConfiguration": {
                    "Rules": [
                        {
                            "Id": "replaced",
                            "Status": "Enabled",
                            "NoncurrentVersionExpiration": {"NoncurrentDays": 30},
                            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
                        }
                    ]
                },
            },
        },
        "ArtifactsPolicy": {
            "Type": "AWS::S3::BucketPolicy",
            "Properties": {
                "Bucket": ref("Artifacts"),
                "PolicyDocument": {
                    "Version": "2012-10-17",
                    "Statement": [
                        {
                            "Sid": "EncryptedTransportOnly",
                            "Effect": "Deny",
                            "Principal": "*",
                            "Action": "s3:*",
                            "Resource": [att("Artifacts.Arn"), sub("${Artifacts.Arn}/*")],
                            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
                        }
                    ],
                },
            },
        },
    }
