"""CloudFormation's short forms as YAML: ``!Ref``, ``!Sub``, ``!GetAtt``, ``!If`` and their like."""

from __future__ import annotations

from typing import Any, NamedTuple

import yaml


class Call(NamedTuple):
    """A function of CloudFormation and what it is given."""

    name: str
    value: Any


def ref(name: str) -> Call:
    return Call("Ref", name)


def sub(text: str) -> Call:
    return Call("Sub", text)


def att(name: str) -> Call:
    return Call("GetAtt", name)


def when(condition: str, then: Any, otherwise: Any = None) -> Call:
    """``!If``; without ``otherwise`` the property or list element is left out."""
    return Call("If", [condition, then, ref("AWS::NoValue") if otherwise is None else otherwise])


def filled(parameter: str) -> Call:
    """A condition: the parameter is not empty."""
    return Call("Not", [Call("Equals", [ref(parameter), ""])])


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # pyyaml publishes no types
    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _call(dumper: yaml.SafeDumper, call: Call) -> yaml.Node:
    if isinstance(call.value, list):
        node = dumper.represent_sequence(f"!{call.name}", call.value)
        node.flow_style = True
        return node
    return dumper.represent_scalar(f"!{call.name}", call.value)


_Dumper.add_representer(Call, _call)


def dump(document: dict[str, Any]) -> str:
    """A template as YAML, in the order in which it was written."""
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
    return text


def load(text: str) -> Any:
    """A template as its long forms (``{"Ref": …}``, ``{"Fn::Sub": …}``)."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader, with CloudFormation's tags


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # likewise
    pass


def _read(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    name = suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}"
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
        return {name: value.split(".", 1) if suffix == "GetAtt" else value}
    assert isinstance(node, yaml.SequenceNode)  # noqa: S101 - no function here takes a mapping
    return {name: loader.construct_sequence(node, deep=True)}


_Loader.add_multi_constructor("!", _read)
