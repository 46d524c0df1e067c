"""Run by the target's own interpreter with ``-I -S``: an inference on the layers' content and nothing else.

    python -I -S canary.py SITE_PACKAGES… -- CACHE ARTIFACT…

One line of JSON on standard output, the last. This file imports the standard library alone until the layers
are on ``sys.path``, and after that nothing that is not in them.
"""

import json
import sys
import time
from typing import Any


def main(roots: list[str], cache: str, artifacts: list[str]) -> dict[str, Any]:
    sys.path[:0] = roots
    sys.dont_write_bytecode = True
    began = time.perf_counter()
    functions = [infer(artifact, cache) for artifact in artifacts]
    seconds = time.perf_counter() - began
    cold = modules(roots)
    everything()
    for function in functions:
        web(function)
    loaded = modules(roots)
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        "ms": round(seconds * 1000),
        "cold": sorted(cold),
        "loaded": len(loaded),
        "without_bytecode": sorted(name for name, cached in loaded.items() if not cached),
    }


def infer(artifact: str, cache: str) -> Any:
    """A direct invocation with the artifact's own sample, whose answer is known; the function. Its start has
    held the golden inputs against the golden outputs."""
    from preheat import Function

    function = Function(environ={"PREHEAT_ARTIFACT": artifact, "PREHEAT_CACHE": cache})
    with open(f"{artifact}/manifest.json", encoding="utf-8") as file:
        sample = json.load(file)["sample"]
    close(function.handler(sample["request"]), sample["answer"], artifact)
    return function


def web(function: Any) -> None:
    """A route that FastAPI answers, asked for as a Function URL does (payload format 2.0)."""
    http = {"method": "GET", "path": "/openapi.json", "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1"}
    shown = function.handler(
        {
            **{"version": "2.0", "rawPath": "/openapi.json", "rawQueryString": "", "headers": {}},
            **{"isBase64Encoded": False, "requestContext": {"http": http, "stage": "$default"}},
        }
    )
    if shown["statusCode"] != 200 or "/predict" not in json.loads(shown["body"])["paths"]:
        raise ValueError(f"/openapi.json is answered with {shown}")


def close(answer: Any, expected: Any, where: str) -> None:
    """Raises ValueError where two answers differ; numbers may, by a little."""
    if isinstance(expected, dict) and isinstance(answer, dict) and answer.keys() == expected.keys():
        for name in expected:
            close(answer[name], expected[name], f"{where}.{name}")
    elif isinstance(expected, list) and isinstance(answer, list) and len(answer) == len(expected):
        for index, one in enumerate(expected):
            close(answer[index], one, f"{where}[{index}]")
    elif isinstance(expected, float) and isinstance(answer, int | float):
        if not abs(answer - expected) <= 1e-3:  # nor NaN
            raise ValueError(f"{where}: {answer} in place of {expected}")
    elif answer != expected:
        raise ValueError(f"{where}: {answer!r} in place of {expected!r}")


def everything() -> None:
    """What an inference did not need, and a function may: each public library once, doing something."""
    import importlib

    for name in (
        "char",
        "ctypeslib",
        "fft",
        "linalg",
        "ma",
        "polynomial",
        "random",
        "rec",
        "strings",
        "testing",
    ):
        importlib.import_module(f"numpy.{name}")
    import numpy

    rows = numpy.random.default_rng(1).normal(size=(8, 8))
    numpy.testing.assert_allclose(numpy.linalg.inv(rows) @ rows, numpy.eye(8), atol=1e-8)
    numpy.testing.assert_allclose(numpy.fft.ifft(numpy.fft.fft(rows)).real, rows, atol=1e-8)

    import tokenizers

    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"cold": 0, "start": 1}))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    if words.encode("cold start").ids != [0, 1]:
        raise ValueError("tokenizers gives other ids")

    import httptools

    httptools.HttpRequestParser(object()).feed_data(b"GET / HTTP/1.1\r\n\r\n")

    import jwt
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    token = jwt.encode({"sub": "canary"}, key, algorithm="EdDSA")
    if jwt.decode(token, key.public_key(), algorithms=["EdDSA"]) != {"sub": "canary"}:
        raise ValueError("PyJWT reads another token than it wrote")

    import obstore.store

    store = obstore.store.MemoryStore()
    store.put("canary", b"1")
    if bytes(store.get("canary").bytes()) != b"1":
        raise ValueError("obstore reads other bytes than it wrote")

    import aws_lambda_powertools
    import mangum

    aws_lambda_powertools.Logger(service="canary")
    aws_lambda_powertools.Metrics(namespace="canary", service="canary")
    mangum.Mangum(object(), lifespan="off")  # type: ignore[arg-type]


def modules(roots: list[str]) -> dict[str, bool]:
    """What is loaded from the layers → whether from bytecode (a shared object needs none). Raises ValueError
    for a module that is neither theirs nor the standard library's."""
    import os

    found: dict[str, bool] = {}
    standard = os.path.dirname(os.__file__)
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if name == "__main__" or path is None:
            continue
        if any(path.startswith(f"{root}/") for root in roots):
            cached = getattr(module, "__cached__", None)
            found[name] = path.endswith(".so") or (cached is not None and os.path.exists(cached))
        elif not path.startswith(f"{standard}/") or "/site-packages/" in path:
            raise ValueError(f"{name} was loaded from {path}, outside the layers")
    return found


if __name__ == "__main__":
    split = sys.argv.index("--")
    result = main(sys.argv[1:split], sys.argv[split + 1], sys.argv[split + 2 :])
    sys.stdout.write(json.dumps(result) + "\n")
