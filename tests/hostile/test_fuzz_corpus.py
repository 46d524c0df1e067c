"""What fuzzing has kept, run again: nothing is raised but what the targets allow."""

from __future__ import annotations

import pytest

from .targets import CORPUS, TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_the_kept_corpus(name: str) -> None:
    kept = sorted((CORPUS / name).iterdir())
    assert len(kept) >= 10
    for path in kept:
        try:
            TARGETS[name](path.read_bytes())
        except Exception as error:
            raise AssertionError(f"{path.name}: {path.read_bytes()[:500]!r}") from error
