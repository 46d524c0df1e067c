"""A transformed template made real in moto's server.

moto's CloudFormation makes what it knows (tables, buckets, queues, roles, functions, versions). The rest
(layers, whose ARNs it does not tell, aliases, URLs, alarms, policies, deployments, rules, event sources) is
made by the calls that CloudFormation would make, from the same template, its references resolved against the
stack's.
"""

from __future__ import annotations

import json
import re
from typing import Any

import boto3

from ..store.servers import Endpoint

BY_CLOUDFORMATION = {
    "AWS::DynamoDB::Table",
    "AWS::IAM::Role",
    "AWS::Lambda::Function",
    "AWS::Lambda::Version",
    "AWS::Logs::LogGroup",
    "AWS::S3::Bucket",
    "AWS::SQS::Queue",
}
PSEUDO = {"AWS::Partition": "aws", "AWS::Region": "us-east-1", "AWS::AccountId": "123456789012"}
ABSENT = object()


class Stack:
    """A template deployed with parameters; ``template`` is what the transform gave."""

    name = "preheat"

    def __init__(self, endpoint: Endpoint, template: dict[str, Any], given: dict[str, str]) -> None:
        self.endpoint = endpoint
        self.template = template
        said = template["Parameters"]
        self.parameters = {name: str(given.get(name, said[name]["Default"])) for name in said}
        self.values: dict[str, Any] = {**PSEUDO, **self.parameters, "AWS::StackName": self.name}
        self.attributes: dict[str, Any] = {}
        resources = template["Resources"]
        self.made = {name: r for name, r in resources.items() if self.holds(r.get("Condition"))}
        self._by_cloudformation(given)
        self._by_calls()

    def client(self, service: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.endpoint.url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def of(self, kind: str) -> dict[str, dict[str, Any]]:
        """The resources of a type that this deployment has, their properties resolved."""
        return {
            name: self.resolve(resource.get("Properties", {}))
            for name, resource in self.made.items()
            if resource["Type"] == kind
        }

    def holds(self, condition: Any) -> bool:
        if condition is None:
            return True
        if isinstance(condition, str):
            condition = self.template["Conditions"][condition]
        ((function, value),) = condition.items()
        if function == "Condition":
            return self.holds(value)
        if function == "Fn::Equals":
            left, right = (self.values[v["Ref"]] if isinstance(v, dict) else v for v in value)
            return bool(left == right)
        if function == "Fn::Not":
            return not self.holds(value[0])
        assert function == "Fn::And", function
        return all(self.holds(part) for part in value)

    def resolve(self, value: Any) -> Any:
        """A value of the template without its functions. A reference to what was not made is an error."""
        if isinstance(value, list):
            return [found for found in map(self.resolve, value) if found is not ABSENT]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((function, given),) = value.items()
            if function == "Ref":
                return ABSENT if given == "AWS::NoValue" else self.values[given]
            if function == "Fn::GetAtt":
                return self.attributes[".".join(given)]
            if function == "Fn::If":
                return self.resolve(given[1] if self.holds(given[0]) else given[2])
            if function == "Fn::Join":
                return given[0].join(str(self.resolve(part)) for part in given[1])
            if function == "Fn::Split":
                return self.resolve(given[1]).split(given[0])
            if function == "Fn::Select":
                return self.resolve(given[1])[int(given[0])]
            if function == "Fn::Sub":
                text, extra = given if isinstance(given, list) else (given, {})
                known = {**self.values, **self.attributes, **self.resolve(extra)}
                return re.sub(r"\$\{([^}]+)\}", lambda match: str(known[match[1]]), text)
        found = {key: self.resolve(item) for key, item in value.items()}
        return {key: item for key, item in found.items() if item is not ABSENT}

    def _by_cloudformation(self, given: dict[str, str]) -> None:
        for name, said in self.of("AWS::Lambda::LayerVersion").items():
            bucket = {"S3Bucket": said["Content"]["S3Bucket"], "S3Key": said["Content"]["S3Key"]}
            self.values[name] = self.client("lambda").publish_layer_version(**{**said, "Content": bucket})[
                "LayerVersionArn"
            ]
        kept = {k: r for k, r in self.made.items() if r["Type"] in BY_CLOUDFORMATION}
        for resource in kept.values():
            for name in {"Layers", "Description"} & set(resource["Properties"]):
                resource["Properties"][name] = self.resolve(resource["Properties"][name])
        cloudformation = self.client("cloudformation")
        body = {**self.template, "Resources": kept, "Outputs": {}}
        cloudformation.create_stack(
            StackName=self.name,
            TemplateBody=json.dumps(body),
            Capabilities=["CAPABILITY_IAM"],
            Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in given.items()],
        )
        described = cloudformation.describe_stacks(StackName=self.name)["Stacks"][0]
        assert described["StackStatus"] == "CREATE_COMPLETE", described
        for row in cloudformation.list_stack_resources(StackName=self.name)["StackResourceSummaries"]:
            self.values[row["LogicalResourceId"]] = row["PhysicalResourceId"]
        assert set(kept) <= set(self.values), "moto made less than the template has"
        for name, resource in kept.items():
            self._attribute(name, resource)

    def _attribute(self, name: str, resource: dict[str, Any]) -> None:
        """What ``Fn::GetAtt`` gives, as the services themselves tell it."""
        made = self.values[name]
        match resource["Type"]:
            case "AWS::DynamoDB::Table":
                arn = self.client("dynamodb").describe_table(TableName=made)["Table"]["TableArn"]
            case "AWS::IAM::Role":
                arn = self.client("iam").get_role(RoleName=made)["Role"]["Arn"]
            case "AWS::Lambda::Function":
                arn = self.client("lambda").get_function(FunctionName=made)["Configuration"]["FunctionArn"]
            case "AWS::SQS::Queue":
                asked = self.client("sqs").get_queue_attributes(QueueUrl=made, AttributeNames=["QueueArn"])
                arn = asked["Attributes"]["QueueArn"]
            case "AWS::S3::Bucket":
                arn = f"arn:aws:s3:::{made}"
            case "AWS::Lambda::Version":
                function = self.values[resource["Properties"]["FunctionName"]["Ref"]]
                versions = self.client("lambda").list_versions_by_function(FunctionName=function)
                self.attributes[f"{name}.Version"] = versions["Versions"][-1]["Version"]
                return
            case _:
                return
        self.attributes[f"{name}.Arn"] = arn

    def _by_calls(self) -> None:
        functions, s3 = self.client("lambda"), self.client("s3")
        for name, said in self.of("AWS::Lambda::Alias").items():
            self.values[name] = functions.create_alias(**said)["AliasArn"]
        for name, said in self.of("AWS::Lambda::Url").items():
            function, _, alias = said["TargetFunctionArn"].rpartition(":")
            url = functions.create_function_url_config(
                FunctionName=function, Qualifier=alias, AuthType=said["AuthType"]
            )
            self.attributes[f"{name}.FunctionUrl"] = url["FunctionUrl"]
        for said in self.of("AWS::Lambda::EventSourceMapping").values():
            functions.create_event_source_mapping(**said)
        # Of these types moto's CloudFormation takes a part of the properties, and leaves the rest out.
        for name, said in self.of("AWS::DynamoDB::Table").items():
            self.client("dynamodb").update_time_to_live(
                TableName=self.values[name], TimeToLiveSpecification=said["TimeToLiveSpecification"]
            )
        for name, said in self.of("AWS::S3::Bucket").items():
            bucket = self.values[name]
            block, versioning = said["PublicAccessBlockConfiguration"], said["VersioningConfiguration"]
            s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=block)
            s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration=versioning)
            s3.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls=said["OwnershipControls"])
        for said in self.of("AWS::S3::BucketPolicy").values():
            s3.put_bucket_policy(Bucket=said["Bucket"], Policy=json.dumps(said["PolicyDocument"]))
        alarms = self.client("cloudwatch")
        for name in [k for k, r in self.made.items() if r["Type"] == "AWS::CloudWatch::Alarm"]:
            said = self.resolve(self.made[name]["Properties"])
            alarms.put_metric_alarm(**{**said, "AlarmName": name, "Threshold": float(said["Threshold"])})
            self.values[name] = name
        events = self.client("events")
        for name, said in self.of("AWS::Events::Rule").items():
            targets = said.pop("Targets")
            self.values[name] = name
            self.attributes[f"{name}.Arn"] = events.put_rule(Name=name, **said)["RuleArn"]
            events.put_targets(Rule=name, Targets=targets)
        for name, said in self.of("AWS::Lambda::Permission").items():
            function, _, alias = said.pop("FunctionName").rpartition(":")
            functions.add_permission(FunctionName=function, Qualifier=alias, StatementId=name, **said)
        self._deployments()

    def _deployments(self) -> None:
        codedeploy = self.client("codedeploy")
        for name, said in self.of("AWS::CodeDeploy::Application").items():
            self.values[name] = said.get("ApplicationName", name)
            codedeploy.create_application(
                applicationName=self.values[name], computePlatform=said["ComputePlatform"]
            )
        for name, said in self.of("AWS::CodeDeploy::DeploymentGroup").items():
            codedeploy.create_deployment_group(deploymentGroupName=name, **_lower(said))


def _lower(value: Any) -> Any:
    """CodeDeploy's API spells its members as CloudFormation does, but for the first letter."""
    if isinstance(value, dict):
        return {key[0].lower() + key[1:]: _lower(item) for key, item in value.items()}
    return [_lower(item) for item in value] if isinstance(value, list) else value
