"""What an artifact is made of: the packages that built it, recorded; and its bill of materials, as CycloneDX.

The packages stand in the manifest's measurements, which a signature covers and a version leaves out: so a
bill comes from the manifest alone, is the same every time, and builds by other releases keep their version
where they made the same files.
"""

from __future__ import annotations

import platform
import uuid
from importlib import metadata
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import UsageError
from ..manifest import Manifest

if TYPE_CHECKING:
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component

BUILDER = "builder"
"""Where it stands among a manifest's measurements."""
FROM_ONNX = ("numpy", "onnxruntime", "onnxruntime-gpu", "onnx", "tokenizers", "pillow")
"""What a build may use, with whatever these require; what is not installed is left out."""
FROM_FOLDER = (*FROM_ONNX, "optimum-onnx", "transformers", "torch")


def builder(source_format: str) -> dict[str, Any]:
    """``preheat``, ``python`` and ``packages`` (name to version) of this build. ``source_format``: the
    manifest's; a model folder takes torch."""
    from packaging.requirements import Requirement  # onnxruntime's and onnx's own requirement
    from packaging.utils import canonicalize_name

    found: dict[str, str] = {}
    left = list(FROM_ONNX if source_format == "onnx" else FROM_FOLDER)
    while left:
        name = canonicalize_name(left.pop())
        if name in found:
            continue
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found[name] = distribution.version
        for text in distribution.requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                left.append(requirement.name)
    return {
        "preheat": __version__,
        "python": platform.python_version(),
        "packages": dict(sorted(found.items())),
    }


def bill(manifest: Manifest) -> str:
    """An artifact's bill of materials: CycloneDX 1.6, JSON; of the same manifest the same bytes.

    Raises UsageError where cyclonedx-python-lib is not installed.
    """
    try:
        from cyclonedx.output import make_outputter
        from cyclonedx.schema import OutputFormat, SchemaVersion
    except ImportError:
        raise UsageError(
            "a bill of materials needs cyclonedx-python-lib; install it with `pip install 'preheat[sbom]'`"
        ) from None
    made = make_outputter(_bom(manifest), OutputFormat.JSON, SchemaVersion.V1_6)
    return made.output_as_string(indent=1) + "\n"


def _bom(manifest: Manifest) -> Bom:
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.tool import ToolRepository

    model = ComponentType.MACHINE_LEARNING_MODEL
    artifact = Component(
        type=model,
        name=manifest.name,
        version=manifest.version,
        bom_ref=manifest.version,
        hashes=_hashes(manifest.version),
        properties=_properties(task=manifest.task, objective=manifest.objective),
    )
    source = manifest.source
    told = {key: value for key, value in source.items() if key != "digest"}
    digest = str(source.get("digest", ""))
    origin = Component(
        type=model,
        name=f"{manifest.name}: source",
        bom_ref="source",
        hashes=_hashes(digest),
        properties=_properties(**{f"source.{key}": value for key, value in sorted(told.items())}),
    )
    files = [
        Component(
            type=ComponentType.FILE,
            name=file.path,
            bom_ref=f"file:{file.path}",
            hashes=_hashes(file.sha256),
            properties=_properties(size=file.size),
        )
        for file in manifest.files
    ]
    built_by = manifest.measurements.get(BUILDER)
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"preheat:{manifest.version}:{built_by}"),
        components=[origin, *files],
    )
    bom.metadata.timestamp = None  # type: ignore[assignment]  # it would differ each time; the schema asks for none
    bom.metadata.component = artifact
    bom.metadata.tools = ToolRepository(components=_tools(built_by))
    bom.register_dependency(artifact, [origin, *files])
    return bom


def _tools(built_by: Any) -> list[Component]:
    """The packages that built it; none for an artifact of an earlier release, which did not record them."""
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    if not isinstance(built_by, dict):  # no version covers these: anything may stand here
        return []
    packages = built_by.get("packages")
    named = {"preheat": built_by.get("preheat"), **(packages if isinstance(packages, dict) else {})}
    tools = [
        Component(
            type=ComponentType.LIBRARY,
            name=str(name),
            version=str(version),
            bom_ref=f"tool:{name}",
            purl=PackageURL("pypi", None, str(name), str(version)),
        )
        for name, version in named.items()
    ]
    python = Component(
        type=ComponentType.PLATFORM,
        name="python",
        version=str(built_by.get("python")),
        bom_ref="tool:python",
    )
    return [python, *tools]


def _hashes(digest: str) -> list[Any]:
    from cyclonedx.model import HashAlgorithm, HashType

    digits = digest.removeprefix("sha256:")
    return [HashType(alg=HashAlgorithm.SHA_256, content=digits)] if len(digits) == 64 else []


def _properties(**values: Any) -> list[Any]:
    from cyclonedx.model import Property

    return [Property(name=f"preheat:{name}", value=_text(value)) for name, value in values.items()]


def _text(value: Any) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
