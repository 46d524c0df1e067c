"""An artifact in a folder of this host: nothing is copied, files are mapped where they lie."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from ..errors import ArtifactError, IntegrityError
from . import Entry


class LocalStore:
    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)
        if not os.path.isdir(self.root):
            if os.path.exists(self.root):
                raise ArtifactError(
                    f"{self.root} is a file, and an artifact is a folder; "
                    f"`preheat build {root} -o DIR` makes one"
                )
            raise ArtifactError(
                f"the artifact {self.root} does not exist; make one with `preheat build SOURCE -o {root}`"
            )

    def read(self, path: str, limit: int) -> bytes:
        full = self.local(path)
        try:
            # Not blocking: a pipe would be waited for, for ever.
            with open(os.open(full, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise IntegrityError(f"{full} is not a plain file")
                data = file.read(limit + 1)
        except FileNotFoundError:
            near = (os.path.join(self.root, name) for name in ("app.py", "artifact"))
            hint = next((f"; did you mean {one}?" for one in near if os.path.exists(one)), "")
            raise ArtifactError(f"{self.root} is not an artifact: it has no {path}{hint}") from None
        except OSError as error:
            raise ArtifactError(f"{full} cannot be read: {error.strerror}") from None
        if len(data) > limit:
            raise IntegrityError(f"{full} is larger than {limit} bytes")
        return data

    def entries(self) -> Iterator[Entry]:
        folders = [""]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(os.path.join(self.root, folder)) as items:
                    for item in items:
                        path = f"{folder}{item.name}"
                        if item.is_dir(follow_symlinks=False):
                            folders.append(path + "/")
                        else:
                            found = item.stat(follow_symlinks=False)
                            plain = item.is_file(follow_symlinks=False)
                            yield Entry(path, found.st_size, plain, found.st_nlink)
            except OSError as error:
                raise ArtifactError(f"{self.root}/{folder} cannot be listed: {error.strerror}") from None

    def local(self, path: str) -> str:
        return f"{self.root}/{path}"
