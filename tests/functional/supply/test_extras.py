"""Our wheel, installed alone into a clean environment: an extra brings what its part needs, no more.

``gpu`` and ``build`` take gigabytes, so they are resolved and not installed; what ``build`` is for runs in
the export environment (tests/functional/build).
"""

from __future__ import annotations

import base64
import contextlib
import json
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from layers.environments import EXPORT, GPU
from layers.locks import PYPROJECT, read
from layers.uv import uv

from ... import servers
from ...conftest import Answer, Server, serving
from ...otlp import collecting
from ..build.models import linear, save
from ..store.samples import publish
from .conftest import Clean, Install

CODE = b"import sys\n\n\ndef main(words: list[str]) -> None:\n    print(words)\n\n\nmain(sys.argv)\n"
BODY = json.dumps({"content": base64.b64encode(CODE).decode()}).encode()
JSON = {"content-type": "application/json"}
RUNTIME = {"preheat", "numpy", "onnxruntime", "httptools"}
OF_ONNXRUNTIME = {"flatbuffers", "packaging", "protobuf", "sympy", "mpmath", "coloredlogs", "humanfriendly"}
EXTRAS = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]


@contextlib.contextmanager
def server(clean: Clean, artifact: Path | str, **environ: str) -> Iterator[Server]:
    """The server of an environment, ready."""
    command = [str(clean.python), "-I", "-m", "preheat.server"]
    with serving(artifact, command=command, PREHEAT_CACHE=str(clean.folder / "cache"), **environ) as one:
        one.wait_ready()
        yield one


def ask(clean: Clean, artifact: Path | str, method: str, path: str, body: bytes | None = None) -> Answer:
    with server(clean, artifact) as one:
        return one.request(method, path, body, JSON)


def preheat(clean: Clean, *arguments: str, **environ: str) -> str:
    return clean.run(str(clean.python.parent / "preheat"), *arguments, **environ).stdout


def test_without_extras_it_is_the_run_time_and_nothing_else(
    install: Install, filetype_artifact: Path
) -> None:
    clean = install()
    found = clean.packages()
    assert found >= RUNTIME
    assert found - RUNTIME <= OF_ONNXRUNTIME
    with server(clean, filetype_artifact) as one:
        answer = one.request("POST", "/predict", BODY, JSON)
        assert (answer.status, answer.json()["predictions"][0]["label"]) == (200, "python")
        for path, extra in (("/metrics", "metrics"), ("/docs", "api")):
            missing = one.request("GET", path)
            assert missing.status == 404
            assert f"preheat[{extra}]" in missing.json()["error"]
    with pytest.raises(AssertionError, match=r"install it with `pip install 'preheat\[cli\]'`"):
        preheat(clean, "settings")


# What each extra's part is, and how it is run.


def text(clean: Clean, embed: Path, filetype: Path) -> None:
    body = json.dumps({"input": "a cold start", "model": "embed"}).encode()
    answer = ask(clean, embed, "POST", "/v1/embeddings", body)
    assert len(answer.json()["data"][0]["embedding"]) == 384


def image(clean: Clean, embed: Path, filetype: Path) -> None:
    clean.run(
        "-c",
        "import io; from PIL import Image; from preheat.tasks.pixels import decode; b = io.BytesIO();"
        "Image.new('RGB', (8, 4)).save(b, 'png'); assert decode(b.getvalue(), 'it', 100).size == (8, 4)",
    )


def api(clean: Clean, embed: Path, filetype: Path) -> None:
    assert "/predict" in ask(clean, filetype, "GET", "/openapi.json").json()["paths"]


def cli(clean: Clean, embed: Path, filetype: Path) -> None:
    assert json.loads(preheat(clean, "inspect", str(filetype), "--json"))["ok"] is True
    assert "PREHEAT_ARTIFACT" in preheat(clean, "settings")


def store(clean: Clean, embed: Path, filetype: Path) -> None:
    """What was published is fetched and served."""
    where = f"file://{clean.folder}/store/filetype"
    publish(filetype, where, "live")
    answer = ask(clean, f"{where}@live", "POST", "/predict", BODY)
    assert answer.json()["predictions"][0]["label"] == "python"


def sign(clean: Clean, embed: Path, filetype: Path) -> None:
    clean.run(
        "-c",
        "from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey as K\n"
        "from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat, NoEncryption\n"
        "from preheat.publish.signing import Signer; from preheat import trust\n"
        "pem = K.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())\n"
        "open('key.pem', 'wb').write(pem); signer = Signer('key.pem')\n"
        "what = ('n', '0' * 64, 'live', 1); envelope = signer.sign(trust.statement(*what, 'sha256:m'))\n"
        "trust.Trust(signer.public).check(envelope, trust.statement(*what), 'it')",
    )


def auth(clean: Clean, embed: Path, filetype: Path) -> None:
    """A token of a key pair is taken, and nobody comes without one."""
    clean.run(
        "-c",
        "from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key\n"
        "from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat\n"
        "import jwt, time; key = generate_private_key(SECP256R1())\n"
        "pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)\n"
        "open('public.pem', 'wb').write(pem)\n"
        "claims = {'sub': 'acme', 'iss': 'i', 'aud': 'a', 'exp': time.time() + 600}\n"
        "open('token', 'w').write(jwt.encode(claims, key, 'ES256'))",
    )
    told = {"KEYS": str(clean.folder / "public.pem"), "ISSUER": "i", "AUDIENCE": "a"}
    environ = {f"PREHEAT_JWT_{name}": value for name, value in told.items()}
    with server(clean, filetype, **environ) as one:
        assert one.request("POST", "/predict", BODY, JSON).status == 401
        headers = {**JSON, "authorization": f"Bearer {(clean.folder / 'token').read_text()}"}
        assert one.request("POST", "/predict", BODY, headers).status == 200


def lambda_(clean: Clean, embed: Path, filetype: Path) -> None:
    clean.run(
        "-c",
        "from preheat.adapters.lambda_telemetry import Telemetry; import boto3, mangum, preheat.powertools\n"
        "from preheat.adapters import mangum_door; Telemetry({'AWS_LAMBDA_FUNCTION_NAME': 'f'}).log('m', {})",
        AWS_REGION="eu-west-1",
    )


def xray(clean: Clean, embed: Path, filetype: Path) -> None:
    clean.run("-c", "from aws_xray_sdk.core import xray_recorder; xray_recorder.begin_segment('s')")


def of_a_ledger(make: Callable[[Path], servers._Process]) -> Callable[[Clean, Path, Path], None]:
    def part(clean: Clean, embed: Path, filetype: Path) -> None:
        ledger = make(clean.folder / "ledger")
        try:
            ledger.start()
            clean.run(
                "-c",
                "import sys; from preheat.ledger import open_ledger; l = open_ledger(sys.argv[1]); l.init()\n"
                "l.claim('k', 'print', 'one', lease=9, keep=9); l.commit('k', 'one', b'it', keep=9)\n"
                "assert l.read('k').outcome == b'it'; l.close()",
                ledger.url,
                **ledger.environ,
            )
        finally:
            ledger.stop()

    return part


def load(clean: Clean, embed: Path, filetype: Path) -> None:
    scenario = clean.folder / "scenario.toml"
    scenario.write_text(
        'schema = 1\nname = "one"\n[[requests]]\npath = "/predict"\njson = { content = "aW1wb3J0IHN5cwo=" }\n'
        '[[steps]]\nname = "some"\narrivals = "poisson"\nrate = 20\nduration_s = 1\n'
    )
    with server(clean, filetype) as one:
        target, run = f"http://127.0.0.1:{one.port}", str(clean.folder / "run.jsonl")
        told = json.loads(preheat(clean, "load", str(scenario), "--target", target, "-o", run, "--json"))
    assert set(told["outcomes"]) == {"ok"}
    preheat(clean, "report", run, "-o", str(clean.folder / "page.html"))
    assert "<svg" in (clean.folder / "page.html").read_text()


def deploy(clean: Clean, embed: Path, filetype: Path) -> None:
    rendered = preheat(clean, "render", "knative", str(filetype), "--image", "registry.example.com/it:1")
    assert yaml.safe_load(rendered)["kind"] == "Service"


def knative(clean: Clean, embed: Path, filetype: Path) -> None:
    """Its client is there, and asks for the cluster."""
    service = str(clean.folder / "service.yaml")
    preheat(clean, "render", "knative", str(filetype), "--image", "registry.example.com/it:1", "-o", service)
    with pytest.raises(AssertionError, match="kubeconfig") as refused:
        preheat(clean, "deploy", "knative", service, "--kubeconfig", str(clean.folder / "kubeconfig"))
    assert "Traceback" not in str(refused.value)
    assert "pip install" not in str(refused.value)


def metrics(clean: Clean, embed: Path, filetype: Path) -> None:
    assert b"preheat_" in ask(clean, filetype, "GET", "/metrics").body


def otel(clean: Clean, embed: Path, filetype: Path) -> None:
    with (
        collecting() as collector,
        server(clean, filetype, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint) as one,
    ):
        assert one.request("POST", "/predict", BODY, JSON).status == 200
        assert collector.asked.wait(20)


def sbom(clean: Clean, embed: Path, filetype: Path) -> None:
    assert json.loads(preheat(clean, "sbom", str(filetype)))["bomFormat"] == "CycloneDX"


def onnx(clean: Clean, embed: Path, filetype: Path) -> None:
    model, out = clean.folder / "model.onnx", clean.folder / "artifact"
    save(linear(), model)
    preheat(clean, "build", str(model), "-o", str(out), "--name", "it", "--rounds", "1", "--only", "mapped")
    assert ask(clean, out, "GET", "/v2/models/it").status == 200


PARTS: dict[str, tuple[Callable[[Clean, Path, Path], None], set[str]]] = {
    "text": (text, {"tokenizers"}),
    "image": (image, {"pillow"}),
    "api": (api, {"fastapi"}),
    "cli": (cli, {"typer", "rich"}),
    "store": (store, {"obstore"}),
    "sign": (sign, {"cryptography"}),
    "auth": (auth, {"pyjwt", "cryptography"}),
    "lambda": (lambda_, {"aws-lambda-powertools", "mangum", "boto3"}),
    "xray": (xray, {"aws-xray-sdk"}),
    "redis": (of_a_ledger(servers.RedisServer), {"redis"}),
    "postgres": (of_a_ledger(servers.PostgresServer), {"psycopg", "psycopg-binary"}),
    "dynamodb": (of_a_ledger(servers.DynamoServer), {"boto3"}),
    "load": (load, {"locust", "matplotlib"}),
    "deploy": (deploy, {"pyyaml"}),
    "knative": (knative, {"kubernetes"}),
    "metrics": (metrics, {"prometheus-client"}),
    "otel": (otel, {"opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"}),
    "sbom": (sbom, {"cyclonedx-python-lib"}),
    "onnx": (onnx, {"onnx"}),
}
RESOLVED = {"gpu": GPU, "build": EXPORT}
HEAVY = {"torch", "transformers", "fastapi", "boto3", "locust", "kubernetes", "onnx", "matplotlib"}
"""What must not come along with an extra that does not name it."""


@pytest.mark.parametrize("extra", PARTS)
def test_an_extra_brings_what_its_part_needs(
    extra: str, install: Install, embed_artifact: Path, filetype_artifact: Path
) -> None:
    part, brings = PARTS[extra]
    clean = install(extra)
    found = clean.packages()
    assert found >= RUNTIME | brings
    assert not found & (HEAVY - brings)
    part(clean, embed_artifact, filetype_artifact)


@pytest.mark.parametrize("extra", RESOLVED)
def test_an_extra_that_takes_gigabytes_can_be_had(extra: str, wheel: Path, tmp_path: Path) -> None:
    uv(["venv", "--quiet", "--python", sys.executable, str(tmp_path / "venv")], "no environment was made")
    pins = tmp_path / "versions.txt"
    pins.write_text(
        "".join(f"{pin.name}=={pin.version}\n" for pin in read(RESOLVED[extra].lock) if not pin.marker)
    )
    to = ("--python", str(tmp_path / "venv" / "bin" / "python"), "--constraints", str(pins))
    uv(["pip", "install", "--dry-run", *to, f"preheat[{extra}] @ {wheel.as_uri()}"], "it cannot be resolved")


def test_every_extra_is_looked_at() -> None:
    assert set(PARTS) | set(RESOLVED) == set(EXTRAS)
