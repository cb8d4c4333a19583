"""Token timelines back to an event table: exact for codes, order and visits; values are drawn.

`decode_rows` says per event what it stands for; `to_table` puts codes, times and values on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from chronoward.schema import Role, event_schema
from chronoward.tokenizer.grammar import US_PER_MIN, TokenClass
from chronoward.tokenizer.vocabulary import KINDS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chronoward.tokenizer.batch import TokenBatch
    from chronoward.tokenizer.vocabulary import Vocabulary

NONE: Final = -1
_ROLE_OF_CLASS: Final = {
    TokenClass.CODE: Role.CODE,
    TokenClass.DISCHARGE: Role.DISCHARGE,
    TokenClass.DEATH: Role.DEATH,
}


@dataclass(frozen=True, eq=False)
class DecodedRows:
    """One row an event, R rows, in token order.

    Attributes:
        subject: int64 (R,), position of the subject in the batch.
        role: uint8 (R,).
        entry: int32 (R,), code entry, -1 for birth.
        value: int32 (R,), token whose value it takes, -1 without.
        position: int64 (R,), position of that token in the batch (its uniform).
        time_min: int32 (R,), source's time; -1 for static facts.
        available_min: int32 (R,), the clock; -1 for static facts.
        end_min: int32 (R,), end of visits and details, else -1.
        visit: int32 (R,), number of the visit in the subject, else -1.
    """

    subject: NDArray[np.int64]
    role: NDArray[np.uint8]
    entry: NDArray[np.int32]
    value: NDArray[np.int32]
    position: NDArray[np.int64]
    time_min: NDArray[np.int32]
    available_min: NDArray[np.int32]
    end_min: NDArray[np.int32]
    visit: NDArray[np.int32]


def decode_rows(vocabulary: Vocabulary, batch: TokenBatch) -> DecodedRows:
    """Events of all timelines, in token order; the specification of the C++ decoder.

    A timeline that stops inside a visit has its visit (and detail) ended at its last clock.
    """
    rows: list[list[int]] = []
    age_ids = vocabulary.age_tokens
    has_age = "age" in vocabulary.spec.prompt_fields
    for i in range(len(batch)):
        lo, hi = int(batch.offsets[i]), int(batch.offsets[i + 1])
        tokens = batch.token_id[lo:hi].tolist()
        if not has_age or (tokens and age_ids[2] not in tokens[:4]):
            rows.append([i, Role.BIRTH, NONE, NONE, lo, 0, 0, NONE, NONE])
        rows += _decode_timeline(vocabulary, batch, i)
    columns = np.array(rows, np.int64).reshape(-1, 9).T
    types = (np.int64, np.uint8, *(np.int32,) * 2, np.int64, *(np.int32,) * 4)
    return DecodedRows(*(c.astype(t) for c, t in zip(columns, types, strict=True)))


def _decode_timeline(vocabulary: Vocabulary, batch: TokenBatch, i: int) -> list[list[int]]:
    rows: list[list[int]] = []
    open_visit: list[int] | None = None
    open_detail: list[int] | None = None
    visit, start, clock = -1, 0, 0
    for p in range(int(batch.offsets[i]), int(batch.offsets[i + 1])):
        token = int(batch.token_id[p])
        what = vocabulary.tokens[token]
        kind = TokenClass(what.token_class)
        clock, event = int(batch.time_min[p]), int(batch.event_min[p])
        if kind in (TokenClass.SEX, TokenClass.RACE):
            role = Role.SEX if kind == TokenClass.SEX else Role.RACE
            rows.append([i, role, what.entry, NONE, p, NONE, NONE, NONE, NONE])
        elif kind == TokenClass.VISIT_START:
            start = event
        elif kind in (TokenClass.VISIT_TYPE, TokenClass.FLAT_VISIT_TYPE):
            visit += 1
            open_visit = [i, Role.VISIT, what.entry, NONE, p, start, clock, clock, visit]
            rows.append(open_visit)
        elif kind == TokenClass.DETAIL_START:
            open_detail = [i, Role.DETAIL, what.entry, NONE, p, event, clock, clock, visit]
            rows.append(open_detail)
        elif kind == TokenClass.DETAIL_END and open_detail is not None:
            open_detail[7], open_detail = clock, None
        elif kind == TokenClass.VISIT_END and open_visit is not None:
            open_visit[7], open_visit = clock, None
        elif kind in _ROLE_OF_CLASS:
            inside = visit if open_visit is not None else NONE
            value = token if what.bin != NONE else NONE
            role = _ROLE_OF_CLASS[kind]
            rows.append([i, role, what.entry, value, p, event, clock, NONE, inside])
        elif kind == TokenClass.VALUE and rows:
            rows[-1][3], rows[-1][4] = token, p
    for unfinished in (open_visit, open_detail):
        if unfinished is not None:
            unfinished[7] = clock
    return rows


def _draw_values(
    vocabulary: Vocabulary, rows: DecodedRows, value_u: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(number or NaN, text number or -1) of each row.

    A shared value token (values=split) that its code does not know is moved to the code's last bin,
    or dropped where the code has no bins or not that text.
    """
    numbers = np.full(len(rows.entry), np.nan, np.float32)
    texts = np.full(len(rows.entry), NONE, np.int64)
    valued = np.flatnonzero(rows.value >= 0)
    if not len(valued):
        return numbers, texts
    bins = vocabulary.column("bin", np.int64)[rows.value[valued]]
    entries = rows.entry[valued]
    knots, first_knot, n_knots, first_bin = vocabulary.value_knots
    n_bins = np.diff(first_bin)[entries]
    is_number = (bins >= 0) & (n_bins > 0)
    at = first_bin[entries] + np.minimum(np.maximum(bins, 0), np.maximum(n_bins - 1, 0))
    at = at[is_number]
    x = value_u[rows.position[valued[is_number]]] * (n_knots[at] - 1)
    low = np.minimum(x.astype(np.int64), n_knots[at] - 2)
    a, b = knots[first_knot[at] + low], knots[first_knot[at] + low + 1]
    numbers[valued[is_number]] = (a + (b - a) * (x - low)).astype(np.float32)
    for row, entry, bin_ in zip(valued.tolist(), entries.tolist(), bins.tolist(), strict=True):
        if bin_ <= -2:
            texts[row] = vocabulary.text_number(entry, -2 - bin_)
    return numbers, texts


def to_table(
    vocabulary: Vocabulary,
    batch: TokenBatch,
    rows: DecodedRows,
    value_u: NDArray[np.float64],
) -> pa.Table:
    """The event table of decoded rows, in canonical order.

    Args:
        vocabulary: the tokenizer's.
        batch: what was decoded.
        rows: its events.
        value_u: float64 (T,), uniforms in [0, 1), one a token.
    """
    numbers, texts = _draw_values(vocabulary, rows, value_u)
    entry_order = vocabulary.entry_order
    birth = next(i for i, e in enumerate(vocabulary.codes) if e.kind == KINDS[-1])
    entry = np.where(rows.entry < 0, birth, rows.entry)
    order = np.lexsort(
        (
            rows.end_min,
            rows.visit,
            rows.time_min,
            texts,
            np.nan_to_num(numbers, nan=-np.inf),
            entry_order[entry],
            rows.role,
            rows.available_min,
            rows.subject,
        )
    )
    subject, entry = rows.subject[order], entry[order]
    origin = batch.origin_us[subject]

    def stamp(minutes: NDArray[np.int32]) -> pa.Array:
        m = minutes[order].astype(np.int64)
        return pa.array(origin + m * US_PER_MIN, pa.int64(), mask=m < 0).cast(pa.timestamp("us"))

    def text(values: list[str | None], indices: NDArray[np.int64]) -> pa.Array:
        picked = pa.array(indices, pa.int64(), mask=indices < 0)
        return pa.array(values, pa.string()).take(picked)

    where = entry.astype(np.int64)
    names = sorted(vocabulary.text_index, key=vocabulary.text_index.__getitem__)
    visit = rows.visit[order].astype(np.int64)
    columns = [
        pa.array(batch.subject_id[subject]),
        stamp(rows.time_min),
        stamp(rows.available_min),
        pa.array(rows.role[order]),
        text([e.table for e in vocabulary.codes], where),
        text([e.code for e in vocabulary.codes], where),
        pa.array(numbers[order], pa.float32(), mask=np.isnan(numbers[order])),
        text(list(names), texts[order]),
        text([e.unit for e in vocabulary.codes], where),
        pa.array(visit, pa.int64(), mask=visit < 0),
        stamp(rows.end_min),
    ]
    return pa.Table.from_arrays(columns, schema=event_schema())
