"""A script for the environment of aws-sam-cli: what CloudFormation's own side does with a packaged template.

``transform.py TEMPLATE PARAMETERS`` prints the transformed template as JSON; PARAMETERS is a JSON object of
those that are not left at their defaults.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from samtranslator.translator.transform import transform  # type: ignore[import-untyped]
from samtranslator.yaml_helper import yaml_parse  # type: ignore[import-untyped]


class Managed:
    """AWS's managed policies by name, of which none is named here."""

    def load(self) -> dict[str, str]:
        return {}


def main(path: str, given: dict[str, Any]) -> dict[str, Any]:
    with open(path, encoding="utf-8") as file:
        template = yaml_parse(file.read())
    parameters = {name: said.get("Default") for name, said in template["Parameters"].items()}
    found: dict[str, Any] = transform(template, {**parameters, **given}, Managed())
    return found


if __name__ == "__main__":
    json.dump(main(sys.argv[1], json.loads(sys.argv[2])), sys.stdout)
