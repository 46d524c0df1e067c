"""numpy without docstrings is the same numpy, and what is left out can be had."""

import subprocess
import sys

import pytest


def printed(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


LEAN = "from preheat.numpy_import import import_numpy; import_numpy(); import numpy as np\n"


def test_the_docstrings_are_left_out_and_no_stand_in_stays() -> None:
    left = "[m for m in sys.modules if m.rpartition('.')[2].startswith('_add_newdocs')]"
    assert printed(f"{LEAN}import sys; print(np.ndarray.__doc__, {left})") == "None []"


def test_what_builds_on_docstrings_is_imported_and_works() -> None:
    code = (
        "import numpy.ma, numpy.fft, numpy.polynomial, numpy.random, numpy.ctypeslib, numpy.testing\n"
        "import onnxruntime, tokenizers\n"
        "print(np.ma.masked_array([1, 2], [0, 1]).sum(), np.fft.fft([1.0, 0.0]).real.sum(), np.lib.__name__)"
    )
    assert printed(LEAN + code) == "1 2.0 numpy.lib"


def test_they_are_added_when_they_are_imported() -> None:
    code = (
        "import importlib.util, importlib\n"
        "core = 'numpy._core' if importlib.util.find_spec('numpy._core._add_newdocs') else 'numpy.core'\n"
        "importlib.import_module(core + '._add_newdocs'); print(np.ndarray.__doc__[:7])"
    )
    assert printed(LEAN + code) == "ndarray"


def test_whoever_has_imported_numpy_keeps_them() -> None:
    assert printed(f"import numpy\n{LEAN}print(np.ndarray.__doc__[:7])") == "ndarray"


def test_what_is_asked_of_a_stand_in_comes_from_the_module_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from preheat.numpy_import import _Left

    stand_in = _Left("preheat.providers")
    monkeypatch.setitem(sys.modules, "preheat.providers", stand_in)
    assert stand_in.CPU == "CPUExecutionProvider"
    assert sys.modules["preheat.providers"] is not stand_in
