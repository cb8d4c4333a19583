"""One shard in the making."""

from __future__ import annotations

import weakref
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from chronoward import files
from chronoward.store.hashed_file import HashedFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def n_tokens_of(record: pa.RecordBatch) -> int:
    """Tokens of a record batch of `shard_schema`."""
    return len(record.column("token_id").values)


class ShardWriter:
    """Writes a shard, a record batch at a time; it has its final name after `finish` only.

    An error of its own removes what was written, as does `abort`, which is called at the latest
    when the writer is dropped or the interpreter exits.

    Args:
        path: of the shard, in its split's folder.
        schema: `shard_schema`.

    Raises:
        OSError: the disk is full or the folder cannot be written; its calls, too.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.n_subjects = self.n_tokens = 0
        self._name = f"{path.parent.name}/{path.name}"
        self._unfinished = ExitStack()
        self.abort = weakref.finalize(self, _abort, self._unfinished)
        self._temporary = self._unfinished.enter_context(files.atomic_path(path))
        self._sink = self._unfinished.enter_context(closing(HashedFile(self._temporary)))
        self._records = pa.ipc.new_file(self._sink, schema)

    def write(self, record: pa.RecordBatch) -> None:
        """Appends a record batch, whose arrays nobody may change any more; see `wait`."""
        with self._removed_on_error():
            self._records.write_batch(record)
        self.n_subjects += record.num_rows
        self.n_tokens += n_tokens_of(record)

    def wait(self) -> None:
        """Waits until the record batches are written, which another thread does."""
        with self._removed_on_error():
            self._sink.wait()

    @contextmanager
    def _removed_on_error(self) -> Iterator[None]:
        with ExitStack() as on_error:
            on_error.push(self._unfinished)
            yield
            on_error.pop_all()

    def finish(self) -> dict[str, Any]:
        """Gives the shard its name; its entry in the manifest."""
        with self._unfinished:
            self._records.close()
            return {
                "file": self._name,
                "n_subjects": self.n_subjects,
                "n_tokens": self.n_tokens,
                "n_bytes": self._sink.tell(),
                "sha256": self._sink.sha256(),
            }


def _abort(unfinished: ExitStack) -> None:
    unfinished.__exit__(GeneratorExit, GeneratorExit(), None)
