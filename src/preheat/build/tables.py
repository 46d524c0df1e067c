"""An artifact as a person reads it: tables that fit 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..manifest import OBJECTIVES, Manifest, TensorSpec
from .inspection import Inspection

if TYPE_CHECKING:
    from rich.console import Console


def print_build(console: Console, found: Inspection) -> None:
    """What a build made and measured."""
    manifest = found.manifest
    where = f"{manifest.name} {_short(manifest.version)} in {found.path}"
    console.print(where, style="bold", markup=False, highlight=False, soft_wrap=True)
    _variants(console, found)
    for note in manifest.measurements.get("notes", []):
        console.print(f"note: {note}", markup=False, highlight=False)


def print_inspection(console: Console, found: Inspection) -> None:
    """Everything."""
    from rich.text import Text

    manifest = found.manifest
    _facts(console, found)
    for title, specs in (("inputs", manifest.inputs), ("outputs", manifest.outputs)):
        table = _table(title, "name", "type", "shape")
        for spec in specs:
            unstable = title == "outputs" and spec.name not in manifest.stable_outputs
            shape = _shape(spec) + ("  (differs from run to run)" if unstable else "")
            table.add_row(Text(spec.name), spec.dtype, Text(shape))
        console.print(table)
    _variants(console, found)
    for note in manifest.measurements.get("notes", []):
        console.print(f"note: {note}", markup=False, highlight=False)
    table = _table("files", "path", "bytes", "sha256")
    table.columns[1].justify = "right"
    for file in manifest.files:
        table.add_row(Text(file.path), f"{file.size:,}", file.sha256[:12])
    console.print(table)
    for problem in found.problems:
        console.print(f"wrong: {problem}", style="red", markup=False, highlight=False)
    if not found.problems:
        console.print(f"all {len(manifest.files)} files match their digests", highlight=False)


def _facts(console: Console, found: Inspection) -> None:
    from rich.table import Table
    from rich.text import Text

    manifest = found.manifest
    table = Table.grid(padding=(0, 2))
    opset = ", ".join(f"{domain} {version}" for domain, version in manifest.source.get("opset", {}).items())
    rows = {
        "name": manifest.name,
        "version": _short(manifest.version, 64),
        "folder": found.path,
        "task": manifest.task,
        "options": _pairs(manifest.options),
        "source": _pairs({k: v for k, v in manifest.source.items() if k not in ("opset", "digest")}),
        "digest": _short(str(manifest.source.get("digest", "")), 64),
        "opset": opset,
        "limits": _pairs(manifest.limits._asdict()),
        "assets": _pairs(manifest.assets),
        "golden": f"{len(manifest.golden)} inference(s), run {manifest.warmup_runs} time(s) each at warm-up, "
        f"tolerance {manifest.tolerance:g}",
        "built for": manifest.objective,
        "measured": _host(manifest),
    }
    for key, value in rows.items():
        if value:
            table.add_row(Text(key, style="bold"), Text(value, overflow="fold"))
    console.print(table)


def _variants(console: Console, found: Inspection) -> None:
    manifest = found.manifest
    measured: dict[str, Any] = manifest.measurements.get("variants", {})
    table = _table(
        "variants",
        "variant",
        "session\nms",
        "first\nms",
        "steady\nms",
        "peak\nMiB",
        "size\nMB",
        "drift",
        "best for",
    )
    for column in table.columns[1:7]:
        column.justify = "right"
    for variant in manifest.variants:
        figures = [
            manifest.measured(variant.name, f) for f in ("session_ms", "first_ms", "steady_ms", "rss_mib")
        ]
        best = [objective for objective in OBJECTIVES if found.chosen(objective) == variant.name]
        table.add_row(
            variant.name,
            *("-" if figure is None else _number(figure) for figure in figures),
            _number(sum(file.size for file in manifest.files if file.path in variant.files) / 1e6),
            _drift(measured.get(variant.name, {})),
            _verdict(variant.name in found.refused, best),
            style="dim" if variant.name in found.refused else None,
        )
    console.print(table)
    for name, reason in found.refused.items():
        console.print(f"{name} does not run here: {reason}", markup=False, highlight=False)
    reasons: dict[str, list[str]] = {}
    for name, row in measured.items():
        if "left_out" in row:
            reasons.setdefault(row["left_out"], []).append(name)
    for reason, names in reasons.items():
        console.print(f"left out: {', '.join(names)}: {reason}", markup=False, highlight=False)


def _table(title: str, *headers: str) -> Any:
    from rich import box
    from rich.table import Table

    return Table(*headers, title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)


def _verdict(refused: bool, best: list[str]) -> str:
    if refused:
        return "does not run"
    return "everything" if len(best) == len(OBJECTIVES) else ", ".join(best)


def _drift(row: dict[str, Any]) -> str:
    drift = row.get("drift")
    return "-" if drift is None else f"{drift:.0e}" if drift else "0"


def _number(value: float) -> str:
    """Three significant digits, no exponent: 0.123, 12.3, 1234."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _shape(spec: TensorSpec) -> str:
    if spec.shape is None:
        return "any rank"
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in spec.shape) + "]"


def _short(digest: str, digits: int = 12) -> str:
    return digest.removeprefix("sha256:")[:digits]


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_brief(value)}" for key, value in values.items())


def _brief(value: object) -> str:
    if isinstance(value, list | dict):
        return f"({len(value)})"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _host(manifest: Manifest) -> str:
    host = manifest.measurements.get("host", {})
    if not host:
        return ""
    return (
        f"{manifest.measurements.get('rounds')} round(s), {manifest.measurements.get('threads')} thread(s), "
        f"{host.get('cpu') or host.get('arch')}, {host.get('arch')}, onnxruntime {host.get('onnxruntime')}"
    )
