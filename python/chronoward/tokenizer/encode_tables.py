"""A vocabulary as the flat arrays that encode runs on, in C++ and in its Python twin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class EncodeTables:
    """The flat arrays that encode (C++ and its Python twin) runs on; E entries, V tokens.

    `text_key` (sorted) is entry * 2^32 + text; under values=split the entry is 0 for the tokens and
    `entry_text` says which (entry, text) pairs are known.
    """

    preset: int  # 0 compact, 1 cehr, 2 events
    resolution_min: int
    is_calendar: bool
    order_by_time: bool
    use_details: bool
    use_hours: bool
    is_split: bool
    max_clock_min: int
    special: NDArray[np.int32]  # end, visit_start, visit_end, detail_end, death (-1 where absent)
    default_token: NDArray[np.int32]  # sex, race, visit_type, discharge when unknown
    prompt_classes: NDArray[np.uint8]
    year_first: int
    year_token: NDArray[np.int32]
    age_edge_min: NDArray[np.int32]
    age_token: NDArray[np.int32]
    age_unknown_id: int
    entry_plain: NDArray[np.int32]  # (E,) token of the entry without a value
    entry_bin_token: NDArray[np.int32]  # (E,) token of bin 0 (bins are consecutive)
    entry_n_bins: NDArray[np.int32]  # (E,)
    entry_edge_offset: NDArray[np.int64]  # (E + 1,)
    edges: NDArray[np.float32]
    entry_sex: NDArray[np.uint8]  # (E,) 0 any, 1 F only, 2 M only
    entry_inpatient: NDArray[np.uint8]  # (E,)
    text_key: NDArray[np.int64]
    text_token: NDArray[np.int32]
    token_class: NDArray[np.uint8]
    token_rank: NDArray[np.int32]  # canonical order inside a moment
    base_code: NDArray[np.int32]
    token_sex: NDArray[np.uint8]
    gap_lo: NDArray[np.int32]
    gap_token: NDArray[np.int32]
    gap_repeat_token: int
    inner_lo: NDArray[np.int32]
    inner_token: NDArray[np.int32]
    hour_token: NDArray[np.int32]  # (24,), -1 for hour 0
