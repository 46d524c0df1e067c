"""The floor of a cold start: the least that a fresh process can do to give the same answer.

``python floor.py PLAN``: the interpreter, numpy and onnxruntime, the task's own libraries, one session, a
bare socket, one inference. It imports nothing of Preheat, parses no more HTTP than the length of the body,
checks nothing, and answers with the model's raw outputs, each behind its length (8 bytes, little-endian).
What every correct answer needs is here: a text is tokenised from the request that came in, other tasks run
the recorded inputs. PLAN is JSON:

``model``, ``optimization`` (name of a GraphOptimizationLevel), ``config``, ``providers``, ``threads``
    how the session is opened; the same as engine.open_session does it
``libraries``     modules that the task's first answer needs
``text``          null, or ``tokenizer`` (path), ``length`` (tokens kept), ``width`` (the model's fixed
                  length, or null), ``pad`` (token id), ``inputs`` (name -> numpy dtype)
``tensors``       path of the recorded inputs, a file written by tensors.pack; read where ``text`` is null
``outputs``       names, in order
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any

# What a minimum does without: collecting among imports that stay, and threads for a BLAS that nothing uses.
gc.disable()
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import onnxruntime as ort  # noqa: E402

DTYPES = {
    **{"BOOL": "|b1", "UINT8": "|u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "|i1"},
    **{"INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8"},
}


def main(plan: dict[str, Any], port: int) -> None:
    for library in plan["libraries"]:
        __import__(library)
    session = open_session(plan)
    text = plan["text"]
    if text:
        encode = encoder(text)
    else:
        feeds = recorded(plan["tensors"])
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(8)
    client, _ = listener.accept()
    body = receive(client)
    if text:
        feeds = encode(json.loads(body)["input"])
    values = session.run(plan["outputs"], feeds)
    answer = b"".join(part for value in values for part in framed(value))
    client.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(answer) + answer)
    signal.pause()  # its memory is looked at, then it is told to end


def open_session(plan: dict[str, Any]) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = plan["threads"]
    options.inter_op_num_threads = 1
    options.enable_mem_reuse = plan["providers"][0][0] != "CPUExecutionProvider"
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, plan["optimization"])
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for key, value in plan["config"].items():
        options.add_session_config_entry(key, value)
    return ort.InferenceSession(
        plan["model"], options, providers=[*map(tuple, plan["providers"])], enable_fallback=0
    )


def encoder(text: dict[str, Any]) -> Callable[[str], dict[str, Any]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(text["tokenizer"])
    tokenizer.no_padding()
    tokenizer.enable_truncation(
        text["length"], direction=(tokenizer.truncation or {}).get("direction", "right")
    )

    def encode(string: str) -> dict[str, Any]:
        ids = tokenizer.encode(string).ids
        padding = [text["pad"]] * ((text["width"] or len(ids)) - len(ids))
        row = np.array([ids + padding])
        mask = np.array([[1] * len(ids) + [0] * len(padding)])
        arrays = {
            "input_ids": row,
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(row),
            "position_ids": np.maximum(mask.cumsum(axis=1) - 1, 0),
        }
        return {name: arrays[name].astype(dtype) for name, dtype in text["inputs"].items()}

    return encode


def recorded(path: str) -> dict[str, Any]:
    with open(path, "rb") as file:
        data = file.read()
    (length,) = struct.unpack_from("<I", data)
    at = 4 + length
    feeds: dict[str, Any] = {}
    for entry in json.loads(data[4:at]):
        raw = data[at : at + entry["bytes"]]
        at += entry["bytes"]
        if entry["datatype"] == "BYTES":
            array: Any = np.array([*strings(raw)], dtype=object)
        else:
            array = np.frombuffer(raw, dtype=DTYPES[entry["datatype"]])
        feeds[entry["name"]] = array.reshape(entry["shape"])
    return feeds


def strings(raw: bytes) -> Iterator[str]:
    at = 0
    while at < len(raw):
        (length,) = struct.unpack_from("<I", raw, at)
        yield raw[at + 4 : at + 4 + length].decode()
        at += 4 + length


def receive(client: socket.socket) -> bytes:
    data = client.recv(1 << 18)
    while (end := data.find(b"\r\n\r\n")) < 0:
        data += client.recv(1 << 18)
    head = data[:end].lower()
    length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
    while len(data) < end + 4 + length:
        data += client.recv(1 << 18)
    return data[end + 4 :]


def framed(value: Any) -> tuple[bytes, bytes]:
    if value.dtype == object:
        items = [str(item).encode() for item in value.ravel()]
        raw = b"".join(struct.pack("<I", len(item)) + item for item in items)
    else:
        raw = value.tobytes()
    return struct.pack("<Q", len(raw)), raw


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), int(os.environ["PORT"]))
