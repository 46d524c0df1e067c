"""``preheat`` and ``python -m preheat``."""

from __future__ import annotations

import sys


def main() -> None:
    """The console's entry point. Exits 0, 1 (it ran, and the answer is no) or 2 (wrong use)."""
    try:
        import rich  # noqa: F401 - the command line's own needs, looked at before cli/ is loaded
        import typer  # noqa: F401
    except ImportError as error:
        sys.stderr.write(
            f"error: the preheat command needs the package {error.name}; "
            "install it with `pip install 'preheat[cli]'`, or 'preheat[onnx]' to build too\n"
        )
        sys.exit(2)
    from .cli import run

    sys.exit(run())


if __name__ == "__main__":
    main()
