"""Parquet files of unknown origin: nothing is read by a footer before the footer was looked at.

A footer of many megabytes (a million columns, ten million row groups) takes gigabytes once it is
parsed, and a few kilobytes of repeated text unpack to any size: both are refused by what the file
says of itself, before memory is taken. What the reader cannot decode is a damaged file, whatever
class Arrow has for it.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chronoward.errors import DataError, FormatError, LimitError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_FOOTER_BYTES = 32 << 20
MAX_TEXT_CHUNK_BYTES = 2 << 30
"""Text of one column in one row group, unpacked."""
MAX_FIELD_BYTES = 8 << 20
"""One text of a record."""
# The calendar's years 1 to 9999, what every reader of ours and of others can hold.
FIRST_US, END_US = -62_135_596_800_000_000, 253_402_300_800_000_000
_MIN_US = -(1 << 62)
_TAIL_BYTES = 8  # length of the footer, magic
_MAGIC = b"PAR1"


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """What goes wrong while a file is decoded, as errors of ours that name it.

    Raises:
        FormatError: the file is truncated, damaged, or no Parquet file.
        LimitError: it asks for more memory than there is.
        OSError: it cannot be read.
    """
    try:
        yield
    except MemoryError:
        message = f"{file}: decoding it takes more memory than there is"
        raise LimitError(message) from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else _first_line(error)
        message = f"{file} is not a readable Parquet file: {reason}"
        raise FormatError(message) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def read_metadata(file: Path) -> pq.FileMetaData:
    """A file's footer.

    Raises:
        FormatError: truncated or no Parquet file.
        LimitError: a footer, or the text of a row group, of a size that no honest file has.
        OSError: the file cannot be read.
    """
    with file.open("rb") as handle:
        size = handle.seek(0, 2)
        handle.seek(max(0, size - _TAIL_BYTES))
        tail = handle.read(_TAIL_BYTES)
    n_footer = int.from_bytes(tail[:4], "little")
    if tail[4:] == _MAGIC and MAX_FOOTER_BYTES < n_footer < size:
        message = (
            f"{file}: its footer has {n_footer:,} bytes, over the limit of {MAX_FOOTER_BYTES:,} "
            "(too many columns or row groups)"
        )
        raise LimitError(message)
    with readable(file):
        metadata = pq.read_metadata(file)
        _check_text_sizes(file, metadata)
    return metadata


def _check_text_sizes(file: Path, metadata: pq.FileMetaData) -> None:
    text = [
        i
        for i in range(metadata.num_columns)
        if metadata.schema.column(i).physical_type == "BYTE_ARRAY"
    ]
    for group in range(metadata.num_row_groups):
        if metadata.row_group(group).total_byte_size <= MAX_TEXT_CHUNK_BYTES:
            continue
        for i in text:
            chunk = metadata.row_group(group).column(i)
            if chunk.total_uncompressed_size > MAX_TEXT_CHUNK_BYTES:
                message = (
                    f"{file}: column {chunk.path_in_schema}, row group {group}: "
                    f"{chunk.total_uncompressed_size:,} bytes of text unpacked, over the limit of "
                    f"{MAX_TEXT_CHUNK_BYTES:,}"
                )
                raise LimitError(message)


def read_parquet_schema(file: Path) -> pa.Schema:
    """The Arrow schema of a Parquet file (see `read_metadata`)."""
    metadata = read_metadata(file)
    with readable(file):
        return metadata.schema.to_arrow_schema()


def read_columns(file: Path, schema: pa.Schema) -> pa.Table:
    """The columns of a small file, cast to a schema.

    Raises:
        DataError: a column is missing, is there twice, or holds what cannot be cast.
        FormatError, LimitError, OSError: as `read_metadata`.
    """
    names = read_parquet_schema(file).names
    for name in schema.names:
        if names.count(name) != 1:
            message = f"{file}: column {name} is {'there twice' if name in names else 'missing'}"
            raise DataError(message)
    with readable(file):
        table = pq.read_table(file, columns=schema.names, page_checksum_verification=True)
        table.validate(full=True)
    columns = [
        cast_column(table[field.name], field.type, f"{file}: column {field.name}")
        for field in schema
    ]
    return pa.Table.from_arrays(columns, names=schema.names)


def cast_column(column: pa.ChunkedArray, kind: pa.DataType, origin: str) -> pa.ChunkedArray:
    """A column in another type, without loss.

    Raises:
        DataError: a value does not fit (the message has no value).
    """
    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        message = f"{origin} has type {column.type}, and its values do not all fit {kind}"
        raise DataError(message) from None


def as_microseconds(column: pa.ChunkedArray, file: Path, name: str) -> pa.ChunkedArray:
    """Times as microseconds since 1970, int64 with nulls.

    Args:
        column: timestamps of any unit without zone, or dates.
        file: named in the message.
        name: of the column.

    Raises:
        DataError: a time beyond what 62 bits of microseconds hold (146,000 years): its unit is not
            what the file says.
    """
    is_coarse = not (pa.types.is_timestamp(column.type) and column.type.unit in ("us", "ns"))
    try:
        us = column.cast(pa.timestamp("us"), safe=is_coarse).cast(pa.int64())
        ends = pc.min_max(us).as_py()
    except pa.ArrowInvalid:  # its message holds the time
        ends = {"min": _MIN_US - 1, "max": 0}
    if ends["min"] is not None and (ends["min"] < _MIN_US or ends["max"] > -_MIN_US):
        message = f"{file}: column {name}: a time beyond 146,000 years, expected {column.type}"
        raise DataError(message)
    return us


def has_page_checksums(file: Path, metadata: pq.FileMetaData) -> bool:
    """Whether the file's pages carry checksums, by its first page (True for a file without any).

    Arrow verifies checksums that are there but does not say whether they are. A page's header
    (Thrift's compact protocol) begins with three numbers, fields 1 to 3; the fourth field, if it is
    the next one, is the checksum.
    """
    if not metadata.num_rows or not metadata.num_columns:
        return True
    chunk: Any = metadata.row_group(0).column(0)
    places = (chunk.dictionary_page_offset, chunk.data_page_offset)
    with file.open("rb") as handle:
        handle.seek(min((place for place in places if place and place > 0), default=0))
        header = handle.read(64)
    position = 0
    for _ in range(3):
        position += 1  # (field delta, type)
        while position < len(header) and header[position] & 0x80:
            position += 1
        position += 1
    return header[position : position + 1] == b"\x15"  # the next field, an i32
