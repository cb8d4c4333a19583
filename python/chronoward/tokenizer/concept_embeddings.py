"""Names to vectors that the user supplies: rows to start from, and places for unseen codes.

A Parquet file with the columns `code` (string, each once) and `vector` (list of float32 or float64,
all of one length, none zero). Whatever made the vectors, only their directions are used.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from chronoward.errors import ConfigError, DataError, FormatError
from chronoward.tokenizer.expand import settle
from chronoward.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from chronoward.tokenizer.vocabulary import Vocabulary

_BLOCK: Final = 4096  # unseen codes compared at a time


@dataclass(frozen=True, eq=False)
class ConceptEmbeddings:
    """Directions of concepts.

    Attributes:
        codes: n codes, each once.
        vectors: float32 (n, d), of length one.
    """

    codes: tuple[str, ...]
    vectors: NDArray[np.float32]

    @classmethod
    def read(cls, path: Path) -> ConceptEmbeddings:
        """Reads a file of concept embeddings.

        Raises:
            DataError: a column is missing or of another type, a code is null or there twice, or a
                vector is null, zero, not finite or of another length (the message names the row).
            FormatError: not a Parquet file.
            OSError: the file cannot be read.
        """
        try:
            table = pq.read_table(path)
        except pa.ArrowInvalid as error:
            message = f"{path} is not a readable Parquet file: {str(error).splitlines()[0]}"
            raise FormatError(message) from None
        for name in ("code", "vector"):
            if name not in table.column_names:
                message = f"{path}: required column {name} is missing"
                raise DataError(message)
        codes = _codes(table["code"], path)
        return cls(codes, _directions(table["vector"].combine_chunks(), path))

    def find(self, codes: list[str]) -> NDArray[np.int64]:
        """Row of each code, -1 where there is none."""
        row = {code: i for i, code in enumerate(self.codes)}
        return np.array([row.get(code, -1) for code in codes], np.int64)


def _codes(column: pa.ChunkedArray, path: Path) -> tuple[str, ...]:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        message = f"{path}: column code is {column.type}, expected string"
        raise DataError(message)
    seen: set[str | None] = {None}
    codes = column.to_pylist()
    for row, code in enumerate(codes):
        if code in seen:
            what = "null" if code is None else "there twice"
            message = f"{path}, row {row}: column code is {what}, expected each code once"
            raise DataError(message)
        seen.add(code)
    return tuple(codes)


def _directions(column: pa.Array, path: Path) -> NDArray[np.float32]:
    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not (is_list or pa.types.is_fixed_size_list(kind)) or kind.value_type not in (
        pa.float32(),
        pa.float64(),
    ):
        message = f"{path}: column vector is {kind}, expected a list of float32 or float64"
        raise DataError(message)
    lengths = column.value_lengths().fill_null(-1).to_numpy(zero_copy_only=False)
    if not len(lengths):
        message = f"{path} has no rows"
        raise DataError(message)
    odd = np.flatnonzero((lengths != lengths[0]) | (lengths <= 0))
    if len(odd):
        message = f"{path}, row {odd[0]}: column vector is null, empty or of another length"
        raise DataError(message)
    values = column.flatten().fill_null(np.nan).to_numpy(zero_copy_only=False)
    vectors = values.reshape(len(lengths), -1).astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1)
    odd = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if len(odd):
        message = f"{path}, row {odd[0]}: column vector is zero or not finite"
        raise DataError(message)
    return np.asarray((vectors / norms[:, None]).astype(np.float32))


def token_vectors(
    tokenizer: Tokenizer, embeddings: ConceptEmbeddings, *, first: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]:
    """The tokens whose code has an embedding.

    Args:
        tokenizer: names the codes.
        embeddings: of some of them.
        first: least token id: the parent's number of tokens, to leave what a model has learned.

    Returns:
        token ids int64 (n,), ascending; vectors float32 (n, d) of length one; bool (n,), whether
        the token stands for a value of its code, too.
    """
    entry = np.maximum(tokenizer.vocabulary.column("entry", np.int64), 0)
    row = embeddings.find([code.code for code in tokenizer.codes])[entry]
    row[tokenizer.vocabulary.column("entry", np.int64) < 0] = -1
    tokens = np.flatnonzero(row[first:] >= 0) + first
    return tokens, embeddings.vectors[row[tokens]], tokenizer.token_bin[tokens] != -1


def place_unseen(
    tokenizer: Tokenizer,
    embeddings: ConceptEmbeddings,
    *,
    at_least: float,
    codes: pa.Table,
) -> Tokenizer:
    """Lets kept codes stand for codes that the vocabulary lacks and whose embedding is near.

    For every table and every code of the embeddings that is not kept in that table: the kept code
    of the table with the largest cosine, where that is `at_least` or more (of equal ones the first
    of the vocabulary). Encoding asks for it last, after the code's own entry and its ancestors,
    takes no values along, and counts it as `placed`. Places that the tokenizer has already stay.

    Args:
        tokenizer: of `fit` or `expand`.
        embeddings: of kept and of unseen codes.
        at_least: smallest cosine, above 0, at most 1.
        codes: the source's code table, to say in the fit report what became of its codes.

    Raises:
        ConfigError: `at_least` is out of range, or no kept code has an embedding.
    """
    if not 0 < at_least <= 1:
        message = f"the cosine to place unseen codes at must be above 0, at most 1; got {at_least}"
        raise ConfigError(message)
    old = tokenizer.vocabulary
    placements = [*old.placements]
    tables = _kept_by_table(old, embeddings)
    if not tables:
        message = "no code of the vocabulary has a concept embedding: are they named alike?"
        raise ConfigError(message)
    for table, kept in sorted(tables.items()):
        rows = embeddings.find(kept)
        known = {
            code for kind, where, code in old.dominant_entry if (kind, where) == ("code", table)
        }
        known |= {code for where, code in old.placed if where == table}
        unseen = [i for i, code in enumerate(embeddings.codes) if code not in known]
        for number, near in zip(unseen, _nearest(embeddings, unseen, rows, at_least), strict=True):
            if near >= 0:
                placements.append((table, embeddings.codes[number], kept[near]))
    vocabulary = replace(old, placements=tuple(sorted(placements)))
    code_rows = {(row["table"], row["code"]): row for row in codes.to_pylist()}
    return Tokenizer(vocabulary, settle(tokenizer.fit_report, vocabulary, code_rows))


def _kept_by_table(vocabulary: Vocabulary, embeddings: ConceptEmbeddings) -> dict[str, list[str]]:
    """Codes with an embedding by table, in order of the vocabulary."""
    have = set(embeddings.codes)
    found: dict[str, list[str]] = {}
    for entry in vocabulary.codes:
        if entry.kind == "code" and entry.code in have:
            of_table = found.setdefault(entry.table, [])
            if entry.code not in of_table[-1:]:  # units of a code follow each other
                of_table.append(entry.code)
    return found


def _nearest(
    embeddings: ConceptEmbeddings, unseen: list[int], kept: NDArray[np.int64], at_least: float
) -> NDArray[np.int64]:
    """Place in `kept` of the nearest kept code for each unseen one, -1 below the threshold."""
    targets = embeddings.vectors[kept]
    found = [np.zeros(0, np.int64)]
    for begin in range(0, len(unseen), _BLOCK):
        cosines = embeddings.vectors[unseen[begin : begin + _BLOCK]] @ targets.T
        best = cosines.argmax(axis=1)
        is_near = cosines[np.arange(len(best)), best] >= np.float32(at_least)
        found.append(np.where(is_near, best, -1))
    return np.concatenate(found)
