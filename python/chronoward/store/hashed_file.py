"""A file and the hash of its bytes, which another thread makes while it is written."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


class HashedFile:
    """A new file to write to from front to back, such as Arrow's writers do.

    Hashing leaves the interpreter to others, and takes as long as writing: with a second core it
    costs no time, and the file is not read again for it.

    Args:
        path: of the file.

    Raises:
        OSError: the file cannot be made; of `write`: the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._digest = hashlib.sha256()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="hash")
        self._hashed: list[Future[None]] = []

    def write(self, data: Any) -> int:
        """Appends bytes; nobody may change them before `wait` or `sha256` has returned."""
        view = memoryview(data).cast("B")
        self._hashed.append(self._worker.submit(self._digest.update, view))
        n = 0
        while n < len(view):  # one call of the system writes 2 GiB at most
            n += self._file.write(view[n:])
        return n

    def tell(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def flush(self) -> None:
        """Nothing waits in a buffer."""

    @property
    def closed(self) -> bool:
        """Whether nothing can be written any more."""
        return self._file.closed

    def wait(self) -> None:
        """Waits until all that was written is hashed."""
        for update in self._hashed:
            update.result()
        self._hashed.clear()

    def sha256(self) -> str:
        """Hex SHA-256 of all that was written."""
        self.wait()
        return self._digest.hexdigest()

    def close(self) -> None:
        """Ends the file and the thread."""
        self._worker.shutdown()
        self._file.close()
