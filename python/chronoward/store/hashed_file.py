"""A file and the hash of its bytes: another thread writes and hashes what it is given."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from chronoward.ahead import Behind

if TYPE_CHECKING:
    from pathlib import Path


class HashedFile:
    """A new file to write to from front to back, such as Arrow's writers do.

    Both leave the interpreter to others: with a second core they cost no time, and the file is not
    read again for its hash.

    Args:
        path: of the file.

    Raises:
        OSError: the file cannot be made; of `wait` and `sha256`: the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._digest = hashlib.sha256()
        self._n_bytes = 0
        self._behind = Behind()

    def write(self, data: Any) -> int:
        """Appends bytes; nobody may change them before `wait` or `sha256` has returned."""
        view = memoryview(data).cast("B")
        self._behind.do(self._take, view)
        self._n_bytes += len(view)
        return len(view)

    def _take(self, view: memoryview) -> None:
        self._digest.update(view)
        n = 0
        while n < len(view):  # one call of the system writes 2 GiB at most
            n += self._file.write(view[n:])

    def tell(self) -> int:
        """Bytes given so far."""
        return self._n_bytes

    def flush(self) -> None:
        """Nothing waits in a buffer."""

    @property
    def closed(self) -> bool:
        """Whether nothing can be written any more."""
        return self._file.closed

    def wait(self) -> None:
        """Waits until all bytes are written and hashed."""
        self._behind.wait()

    def sha256(self) -> str:
        """Hex SHA-256 of all bytes, which are written then."""
        self.wait()
        return self._digest.hexdigest()

    def close(self) -> None:
        """Ends the file and the thread."""
        self._behind.close()
        self._file.close()
