"""Targets and files that cannot be: each is said in a line, with what to do, and no traceback."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from preheat.measure.client import free_port

from ..test_measure import preheat
from .conftest import Load
from .servers import OneInstance, Reply, answering, plain

BURST = '[[steps]]\narrivals = "burst"\ncount = 4\n'
COLD = BURST + "cold = true\n"


def refused(done: subprocess.CompletedProcess[str], status: int, *told: str) -> None:
    assert done.returncode == status, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    last = next(line for line in done.stderr.splitlines() if line.startswith("error: "))
    for text in told:
        assert text in done.stderr, last


def test_a_target_that_is_down(load: Load, out: Path) -> None:
    refused(load(BURST, f"http://127.0.0.1:{free_port()}"), 1, "is down: nothing listens on 127.0.0.1")
    assert not out.exists()


def test_a_host_without_an_address(load: Load) -> None:
    refused(load(BURST, "http://no-such-host.invalid"), 1, "no-such-host.invalid has no address")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("ftp://host", "http:// or https://"),
        ("localhost:8080", "http:// or https://"),
        ("http://host:99999", "is no URL"),
        ("http://host/?x=1", "a query in the scenario"),
        ("http://me:secret@host", "--header"),
    ],
)
def test_what_is_no_url(load: Load, url: str, told: str) -> None:
    done = load(BURST, url)
    refused(done, 2, told)
    assert "secret" not in done.stderr


def test_html_where_inference_was_asked_for(load: Load) -> None:
    def page(*_: object) -> Reply:
        return 200, {"content-type": "text/html; charset=utf-8"}, b"<!doctype html><p>It works!"

    with answering(page) as url:
        refused(load(BURST, url), 1, "answers HTML where inference was asked for")


def test_redirects_are_not_followed(load: Load) -> None:
    asked: list[str] = []

    def moved(_method: str, path: str, *_: object) -> Reply:
        asked.append(path)
        return 307, {"location": "https://elsewhere.example/predict"}, b""

    with answering(moved) as url:
        refused(load(BURST, url), 1, "redirects to https://elsewhere.example/predict", "name that URL")
    assert set(asked) == {"/predict"}


def test_paths_that_are_not_there(gateway: tuple[str, OneInstance], load: Load) -> None:
    refused(load(BURST, gateway[0]), 1, "answers 404", "check the path in --target")


def test_what_does_not_speak_http(load: Load) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            for _ in range(8):
                try:
                    connection, _address = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
                    connection.settimeout(2)
                    try:
                        connection.recv(4096)
                    except OSError:
                        continue

        threading.Thread(target=greet, daemon=True).start()
        done = load(BURST, f"http://127.0.0.1:{listener.getsockname()[1]}")
    assert done.returncode == 1
    assert "does not answer HTTP" in done.stderr or "closed 4" in done.stdout or "broken" in done.stdout
    assert "Traceback" not in done.stderr


def tls(folder: Path) -> ssl.SSLContext:
    """A server's, with a certificate for 127.0.0.1 that nobody knows: ``both.pem``."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "both.pem").write_bytes(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "both.pem")
    return context


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_certificate_is_valid_where_its_authority_is_known(load: Load, tmp_path: Path) -> None:
    with answering(plain, context=tls(tmp_path)) as url:
        refused(load(BURST, url), 1, "its certificate is not valid here", "self-signed", "SSL_CERT_FILE")
        done = load(BURST, url, SSL_CERT_FILE=str(tmp_path / "both.pem"))
        assert done.returncode == 0, done.stderr
        assert "ok 4" in done.stdout
        elsewhere = url.replace("127.0.0.1", "localhost")
        done = load(BURST, elsewhere, SSL_CERT_FILE=str(tmp_path / "both.pem"))
        refused(done, 1, "its certificate is not valid here", "name the host that it was issued for")


def test_tls_spoken_to_a_server_without(load: Load) -> None:
    with answering(plain) as url:
        refused(load(BURST, url.replace("http:", "https:")), 1, "does not speak TLS", "is it an http:// URL?")


def test_a_cold_scenario_needs_a_way_to_make_it_cold(load: Load) -> None:
    with answering(plain) as url:
        refused(load(COLD, url), 2, "say how with --cold")
        refused(
            load(COLD, url, "--cold", "freezer"), 2, "'freezer' is not known", "knative:NAMESPACE/SERVICE"
        )
        refused(load(COLD, url, "--cold", "lambda:embed"), 2, "lambda:FUNCTION:ALIAS must name both")
        refused(load(COLD, url, "--cold", "knative:"), 2, "must name the service")


def test_a_target_that_is_not_up_cannot_be_made_cold_by_it(load: Load, out: Path) -> None:
    with answering(plain) as url:
        refused(load(COLD, url, "--cold", "up"), 1, "/_preheat/status answered 200; is it `preheat up`?")
    assert not out.exists()


def test_a_function_that_is_not_up(gateway: tuple[str, OneInstance], load: Load, out: Path) -> None:
    refused(load(COLD, gateway[0], "--cold", "up:nosuch"), 2, "--cold up:nosuch: only filetype are up")
    assert not out.exists()


def test_cold_is_confirmed_and_not_assumed(
    gateway: tuple[str, OneInstance], load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, one = gateway
    one.stuck = True
    from preheat.load.cold import NotColdError, up

    monkeypatch.setattr(up, "SCALE_S", 0.3)
    one("POST", "/filetype/predict", {"content-type": "application/json"}, b'{"content": "aQ=="}')
    with pytest.raises(NotColdError, match="still has instances after it was scaled to zero: filetype-1"):
        up.Up("", f"{url}/filetype").force()
    with pytest.raises(NotColdError, match="/_preheat/functions/other/scale answered 404: no such function"):
        up.Up("other", url).force()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--header", "no colon"], "--header must be 'name: value'"),
        (["--bind", "127.0.0.1:5557"], "say how many with --workers"),
        (["--bind", "here", "--workers", "1"], "--bind must be HOST:PORT"),
        (["--sign", "lambda"], "SERVICE:REGION"),
        (["--memory", "1"], "--memory must be from"),
        (["--prices", "none.toml"], "none.toml cannot be read"),
    ],
)
def test_options_that_make_no_sense(load: Load, arguments: list[str], told: str) -> None:
    with answering(plain) as url:
        refused(load(BURST, url, *arguments), 2, told)


def test_a_scenario_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    done = preheat("load", "colt", "--target", "http://127.0.0.1:1", "-o", tmp_path / "run.jsonl")
    refused(done, 2, "there is no scenario 'colt'", "cold, poisson-idle")


def test_a_place_that_cannot_be_written(scenario: Callable[[str], Path], tmp_path: Path) -> None:
    with answering(plain) as url:
        done = preheat("load", scenario(BURST), "--target", url, "-o", tmp_path)
    refused(done, 2, "cannot be written")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "is empty, and no load test's run"),
        ("{}\n", "line 1 is not of a load test's run, which `preheat load SCENARIO"),
        ('{"preheat_load": 9}\n', "schema 9"),
        ("x\n", "line 1"),
    ],
)
def test_runs_that_are_none(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text(content)
    refused(preheat("compare", path, path), 2, told)
    refused(preheat("compare", tmp_path / "none", path), 2, "cannot be read")
