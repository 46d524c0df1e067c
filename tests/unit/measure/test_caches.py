from __future__ import annotations

import os
from pathlib import Path

import pytest

from preheat.errors import UsageError
from preheat.measure.caches import dropper


def test_the_kernels_switch_is_used_where_it_can_be_written(tmp_path: Path) -> None:
    switch = tmp_path / "drop_caches"
    found = dropper([], switch=str(switch))
    assert found.how == "kernel"
    switch.unlink()
    found.drop()
    assert switch.read_text() == "3\n"


def test_without_it_each_file_is_given_up_by_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    advised = []

    def advise(descriptor: int, offset: int, length: int, advice: int) -> None:
        assert (offset, length, advice) == (0, 0, os.POSIX_FADV_DONTNEED)
        advised.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    one = tmp_path / "one"
    one.write_bytes(b"x")
    found = dropper([str(one), str(tmp_path / "gone")], switch=str(tmp_path / "no" / "switch"))
    assert found.how == "fadvise"
    assert advised == []
    found.drop()
    found.drop()
    assert advised == [str(one)] * 2


def test_without_either_the_option_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fadvise")
    with pytest.raises(UsageError, match=r"--drop-caches: .* run as root"):
        dropper([], switch=str(tmp_path / "no" / "switch"))
