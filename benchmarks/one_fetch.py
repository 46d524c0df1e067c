"""``python -m benchmarks.one_fetch HOW …``: fetch from a store.

``preheat REFERENCE CACHE PATH…``: those files of an artifact, verified. ``hit``, with the same arguments,
prints what a store then adds to a start, in milliseconds: the modules that a folder would not need, opening,
verifying. ``boto3 BUCKET KEY FILE``: boto3's client and its ``download_file``, unverified.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable


def fetch(location: str, cache: str, *paths: str) -> None:
    from preheat.phases import PhaseClock
    from preheat.settings import Settings
    from preheat.stores import Reference, open_store

    begin = time.perf_counter()
    reference = open_store(location)
    assert isinstance(reference, Reference)  # noqa: S101 - what the benchmark gives
    from preheat.remote import open_remote

    artifact = open_remote(reference, Settings(), cache_dir=cache, clock=PhaseClock())
    artifact.require(paths)
    sys.stdout.write(f"{(time.perf_counter() - begin) * 1e3}\n")


def hit(location: str, cache: str, *paths: str) -> None:
    import preheat.bootstrap  # noqa: F401 - what any start imports

    fetch(location, cache, *paths)


def boto3(bucket: str, key: str, file: str) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    client.download_file(bucket, key, file)


if __name__ == "__main__":
    ways: dict[str, Callable[..., None]] = {"preheat": fetch, "hit": hit, "boto3": boto3}
    ways[sys.argv[1]](*sys.argv[2:])
