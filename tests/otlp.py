"""A real OTLP receiver in the test's process: it decodes what OpenTelemetry's exporter sends."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class Received(NamedTuple):
    """A span, with the resource that it came with."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    begin_ns: int
    end_ns: int
    status: int
    attributes: Mapping[str, Any]
    links: list[tuple[str, str]]
    trace_state: str
    resource: Mapping[str, Any]


class Collector:
    def __init__(self, *, answer_after_s: float = 0.0) -> None:
        self.spans: list[Received] = []
        self.headers: list[dict[str, str]] = []
        self.asked = threading.Event()
        let_go = self._let_go = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.asked.set()
                if answer_after_s and let_go.wait(answer_after_s):
                    return
                assert self.path == "/v1/traces"
                collector.headers.append({k.lower(): v for k, v in self.headers.items()})
                collector.spans += _spans(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def named(self, name: str, within: float = 15.0, count: int = 1) -> list[Received]:
        """At least so many spans of a name, waited for."""
        until = time.monotonic() + within
        while True:
            found = [span for span in list(self.spans) if span.name == name]
            if len(found) >= count:
                return found
            assert time.monotonic() < until, f"no {name!r} among {[span.name for span in self.spans]}"
            time.sleep(0.02)

    def children(self, parent: Received) -> list[Received]:
        found = [span for span in list(self.spans) if span.parent_id == parent.span_id]
        return sorted(found, key=lambda span: span.begin_ns)

    def stop(self) -> None:
        self._let_go.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def collecting(**options: Any) -> Iterator[Collector]:
    collector = Collector(**options)
    try:
        yield collector
    finally:
        collector.stop()


def _spans(request: ExportTraceServiceRequest) -> Iterator[Received]:
    for resource_spans in request.resource_spans:
        resource = _attributes(resource_spans.resource.attributes)
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield Received(
                    span.name,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.kind,
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    span.status.code,
                    _attributes(span.attributes),
                    [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
                    span.trace_state,
                    resource,
                )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in pairs}
