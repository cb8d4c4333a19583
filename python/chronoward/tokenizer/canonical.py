"""Generated timelines in the order that encode gives: sorted inside moments, each code once.

A model may draw the codes of a moment in any order; as data they are a set. After this,
`encode(decode(y)) = y` holds for generated timelines too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from chronoward.tokenizer.grammar import TokenClass

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chronoward.tokenizer.batch import TokenBatch
    from chronoward.tokenizer.encode_tables import EncodeTables

_IN_MOMENT = (TokenClass.CODE, TokenClass.VALUE, TokenClass.DETAIL_START, TokenClass.DETAIL_END)


def canonical(t: EncodeTables, batch: TokenBatch) -> TokenBatch:
    """The batch with every moment's codes and details in canonical order.

    Details that begin and end in one moment come first, each once; codes follow by (source's time
    where the preset orders by it, canonical order), each once with its value. A shared value token
    (values=split) that its code does not know is moved to the code's last bin, or dropped.

    Args:
        t: the tokenizer's encode tables.
        batch: timelines that the grammar accepts.
    """
    kept: list[int] = []
    tokens = batch.token_id.copy()
    lengths = []
    is_in_moment = np.isin(t.token_class[tokens], _IN_MOMENT)
    for i in range(len(batch)):
        before = len(kept)
        position, end = int(batch.offsets[i]), int(batch.offsets[i + 1])
        is_open = False
        while position < end:
            run = position
            while run < end and is_in_moment[run]:
                run += 1
            if run == position:
                kept.append(position)
                position += 1
                continue
            order, is_open = _order_run(t, batch, tokens, range(position, run), is_open=is_open)
            kept += order
            position = run
        lengths.append(len(kept) - before)
    index = np.array(kept, np.int64)
    return replace(
        batch,
        offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)]),
        token_id=tokens[index],
        time_min=batch.time_min[index],
        event_min=batch.event_min[index],
        n_prior=batch.n_prior[index],
    )


def _order_run(
    t: EncodeTables, batch: TokenBatch, tokens: NDArray[np.int32], run: range, *, is_open: bool
) -> tuple[list[int], bool]:
    """Positions of one moment in canonical order, and whether a detail is open after it."""
    details: list[list[int]] = []
    codes: list[list[int]] = []
    closing: list[int] = []
    for position in run:
        kind = t.token_class[tokens[position]]
        if kind == TokenClass.DETAIL_END:
            if is_open:
                closing, is_open = [position], False
            else:
                details[-1].append(position)
        elif kind == TokenClass.DETAIL_START:
            details.append([position])
        elif kind == TokenClass.VALUE:
            if _fit_value(t, tokens, codes[-1][0], position):
                codes[-1].append(position)
        else:
            codes.append([position])
    momentary = {int(tokens[d[0]]): d for d in reversed(details) if len(d) == 2}
    ordered = [momentary[token] for token in sorted(momentary, key=lambda x: int(t.token_rank[x]))]
    still_open = [d for d in details if len(d) == 1]
    seen: set[tuple[int, ...]] = set()

    def key(code: list[int]) -> tuple[int, ...]:
        time = int(batch.event_min[code[0]]) if t.order_by_time else 0
        value_rank = int(t.token_rank[tokens[code[1]]]) if len(code) > 1 else -1
        return (time, int(t.token_rank[tokens[code[0]]]), value_rank)

    for code in sorted(codes, key=lambda c: (*key(c), int(batch.event_min[c[0]]))):
        if key(code) not in seen:
            seen.add(key(code))
            still_open.append(code)
    flat = [*closing, *(p for group in (*ordered, *still_open) for p in group)]
    return flat, is_open or any(len(d) == 1 for d in details)


def _fit_value(t: EncodeTables, tokens: NDArray[np.int32], code: int, position: int) -> bool:
    """Moves a shared value token into what its code knows; False where it knows none."""
    entry, token = int(t.base_code[tokens[code]]), int(tokens[position])
    first, n_bins = int(t.entry_bin_token[entry]), int(t.entry_n_bins[entry])
    known = t.text_token[(t.text_key >> 32) == entry]
    if token in known:
        return True
    is_bin = first >= 0 and token not in t.text_token
    if not is_bin or n_bins == 0:
        return False
    tokens[position] = min(token, first + n_bins - 1)
    return True
