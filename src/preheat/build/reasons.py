"""onnxruntime's reasons for refusing a model, as a person can use them."""

from __future__ import annotations

import re


def plain(error: BaseException | None) -> str:
    """What onnxruntime said, without its status, its source locations and the path of the file."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = lines[0]
    if text.startswith("[ONNXRuntimeError]"):
        text = text.split(" : ", 3)[-1]
    text = re.sub(r"^Load model from .*? failed:", "", text)
    text = re.sub(r"^Fatal error: ", "", text)
    # A failed check names its place in the source, and the function by its whole signature.
    text = re.sub(r"^\S*/onnxruntime/core/\S+:\d+ .*?\)(?: const)? (?=\S)", "", text)
    return text[:500].strip()


def why_not_opened(error: BaseException | None, opset: dict[str, int]) -> str:
    """Why the model cannot be opened at all, and what can be done about it. ``opset``: the model's own."""
    import onnxruntime

    reason = plain(error)
    here = f"onnxruntime {onnxruntime.__version__}"
    last = re.search(r"support for domain (\S+) is till opset (\d+)", str(error))
    if last:
        domain = last[1].rstrip(".")
        return (
            f"the model is of opset {opset.get(domain, '?')} of {domain}, and {here} runs up to {last[2]}; "
            "export it with a lower opset, or use a newer onnxruntime"
        )
    if "not a registered function/op" in reason or "No Op registered" in reason:
        advice = "export the model without that operator: custom operators cannot be loaded"
    elif "NOT_IMPLEMENTED" in reason or "Could not find an implementation" in reason:
        advice = "export the model with a data type or opset for which onnxruntime has that operator"
    elif re.search(r"IR[ _]version", reason, re.IGNORECASE):
        advice = "save the model with an older IR version, or use a newer onnxruntime"
    else:
        advice = "does the file open with onnx.checker.check_model?"
    return f"{here} cannot open the model: {reason.rstrip('.')}; {advice}"
