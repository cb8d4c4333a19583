"""
C++ core of chronoward: tokenise, pack, decode.
"""

from __future__ import annotations

import collections.abc
import typing

import numpy
import numpy.typing
import typing_extensions

__all__: list[str] = [
    "BottomSample",
    "CHANGES",
    "ContextBuffers",
    "ContextRules",
    "CsvPiece",
    "DURATION_GROUPS",
    "DecodeModel",
    "FitScan",
    "IdNumbering",
    "KeyIndex",
    "KeyValueCache",
    "MedsMending",
    "OmopMending",
    "RECORD_CHANGES",
    "RECORD_REMOVALS",
    "REMOVALS",
    "RULES_VERSION",
    "RecordCensus",
    "Sampler",
    "ShardArrays",
    "SplitArrays",
    "TextNumbering",
    "TokenValueArrays",
    "TokenizerCore",
    "WindowArrays",
    "context_lists",
    "copy_rows",
    "count_contexts",
    "count_known",
    "count_precedence",
    "cross_entropy",
    "cut_windows",
    "decode_level",
    "fill_null",
    "fill_padded",
    "fill_rows",
    "fit_value_bins",
    "gate_rows",
    "gate_rows_backward",
    "head_rows",
    "head_rows_backward",
    "mend_visits",
    "norm_rows",
    "norm_rows_backward",
    "pack_rows",
    "packed_attention",
    "packed_attention_backward",
    "philox4x32",
    "put_rows",
    "read_csv",
    "read_heads",
    "splitmix64",
    "subject_offsets",
    "use_decode_level",
    "validate_timelines",
]

class IdNumbering:
    """
    Distinct integers in the order in which they came.
    """
    def __init__(self) -> None: ...
    def __len__(self) -> int: ...
    def of(self, value: typing.SupportsInt | typing.SupportsIndex) -> int:
        """
        The number of a value, a new one if it is.
        """
    def of_all(
        self,
        values: numpy.typing.NDArray[numpy.int64],
        *,
        null: typing.SupportsInt | typing.SupportsIndex,
    ) -> numpy.typing.NDArray[numpy.int32]:
        """
        The numbers of values, -1 for the one that stands for null.
        """
    def values(self) -> list[int]:
        """
        All of them, in order.
        """

class TextNumbering:
    """
    Distinct texts in the order in which they came.
    """
    def __init__(self) -> None: ...
    def __len__(self) -> int: ...
    def of_all(
        self, texts: collections.abc.Sequence[str], *, is_value: bool = False
    ) -> numpy.typing.NDArray[numpy.int32]:
        """
        The numbers of texts, -1 for empty ones; of long values a digest is kept.
        """
    def texts(self) -> list[str]:
        """
        All of them, in order.
        """

class CsvPiece:
    """
    Rows of a block of delimited text; a column is taken once.
    """
    def ids(
        self, column: typing.SupportsInt | typing.SupportsIndex, numbering: IdNumbering
    ) -> numpy.typing.NDArray[numpy.int32]:
        """
        Numbers, -1 for null.
        """
    def integers(
        self, column: typing.SupportsInt | typing.SupportsIndex
    ) -> numpy.typing.NDArray[numpy.int64]:
        """
        Integers or times, -2^63 for null.
        """
    def n_unread(self, column: typing.SupportsInt | typing.SupportsIndex) -> int:
        """
        How many fields are not written plainly.
        """
    def numbers(
        self, column: typing.SupportsInt | typing.SupportsIndex
    ) -> numpy.typing.NDArray[numpy.float64]:
        """
        NaN for null.
        """
    def texts(
        self,
        column: typing.SupportsInt | typing.SupportsIndex,
        numbering: TextNumbering,
        *,
        is_value: bool = False,
    ) -> numpy.typing.NDArray[numpy.int32]:
        """
        Numbers, -1 for null; of long values a digest is kept.
        """
    def unread(
        self, column: typing.SupportsInt | typing.SupportsIndex
    ) -> tuple[numpy.typing.NDArray[numpy.int64], numpy.typing.NDArray[numpy.int32], list[str]]:
        """
        Fields that are not written plainly: rows, places among distinct texts, those texts.
        """
    @property
    def is_ascii(self) -> bool:
        """
        Whether no byte read is above 127: then it is UTF-8 as well.
        """
    @property
    def n_bytes(self) -> int:
        """
        How much of the block they are.
        """
    @property
    def n_rows(self) -> int: ...

class Sampler:
    """
    Grammar, clock, silence and draws of all slots, a call a step.
    """
    def __init__(
        self,
        grammar: typing.Any,
        n_slots: typing.SupportsInt | typing.SupportsIndex,
        *,
        outcome_sets: collections.abc.Sequence[
            collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]
        ],
        temperature: typing.SupportsFloat | typing.SupportsIndex,
        top_k: typing.SupportsInt | typing.SupportsIndex,
        top_p: typing.SupportsFloat | typing.SupportsIndex,
        min_p: typing.SupportsFloat | typing.SupportsIndex,
        forbid_end: bool,
        max_new_tokens: typing.SupportsInt | typing.SupportsIndex,
    ) -> None: ...
    def arrays(self, slot: typing.SupportsInt | typing.SupportsIndex) -> dict[str, numpy.ndarray]:
        """
        Copies of what a slot has drawn so far.
        """
    def load(
        self,
        slot: typing.SupportsInt | typing.SupportsIndex,
        prompt: numpy.typing.NDArray[numpy.int32],
        *,
        key: typing.SupportsInt | typing.SupportsIndex,
        subject_id: typing.SupportsInt | typing.SupportsIndex,
        prediction_time_us: typing.SupportsInt | typing.SupportsIndex,
        rollout: typing.SupportsInt | typing.SupportsIndex,
        clock_min: typing.SupportsInt | typing.SupportsIndex,
        prediction_min: typing.SupportsInt | typing.SupportsIndex,
        deadline_min: typing.SupportsInt | typing.SupportsIndex,
        masked_set: typing.SupportsInt | typing.SupportsIndex,
    ) -> None:
        """
        Starts a rollout after `prompt`.
        """
    def step(
        self, logits: numpy.typing.NDArray[numpy.float32], slots: numpy.typing.NDArray[numpy.int32]
    ) -> tuple[
        numpy.typing.NDArray[numpy.int32],
        numpy.typing.NDArray[numpy.int32],
        numpy.typing.NDArray[numpy.uint8],
    ]:
        """
        Draws a token a row: token ids, clocks and statuses.
        """
    def walk(self, tokens: numpy.typing.NDArray[numpy.int32]) -> int:
        """
        -1, or the position at which the grammar refuses the tokens.
        """

class KeyIndex:
    """
    Numbers the distinct keys (role, table, code, unit) of many batches.
    """
    def __init__(self) -> None: ...
    def __len__(self) -> int: ...
    def keys(self, first: typing.SupportsInt | typing.SupportsIndex) -> list:
        """
        (role, table, code, unit) of the keys from one on.
        """
    def number(
        self,
        role: numpy.typing.NDArray[numpy.uint8],
        table: numpy.typing.NDArray[numpy.int32],
        code: numpy.typing.NDArray[numpy.int32],
        unit: numpy.typing.NDArray[numpy.int32],
        n_threads: typing.SupportsInt | typing.SupportsIndex = 1,
    ) -> numpy.typing.NDArray[numpy.int32]:
        """
        The number of each row's key.
        """

class BottomSample:
    """
    Per group the rows of least priority, a hash of the row alone.
    """
    def __init__(
        self, size: typing.SupportsInt | typing.SupportsIndex, folder: str = ""
    ) -> None: ...
    def add(
        self,
        *,
        group: numpy.typing.NDArray[numpy.int64],
        subject: numpy.typing.NDArray[numpy.int64],
        salt: numpy.typing.NDArray[numpy.int64],
        value: numpy.typing.NDArray[numpy.float64],
    ) -> None:
        """
        Offers rows.
        """
    def add_sampled(
        self,
        *,
        group: numpy.typing.NDArray[numpy.int64],
        priority: numpy.typing.NDArray[numpy.uint64],
        subject: numpy.typing.NDArray[numpy.uint64],
        value: numpy.typing.NDArray[numpy.float64],
    ) -> None:
        """
        Offers rows of another sample.
        """
    def rows(
        self,
        first: typing.SupportsInt | typing.SupportsIndex,
        end: typing.SupportsInt | typing.SupportsIndex,
    ) -> dict:
        """
        As `take`, of some groups; it stays.
        """
    def take(self) -> dict:
        """
        The sample, which is then forgotten: columns by name, sorted by group and priority.
        """

class FitScan:
    """
    Counts and samples of the subjects that are counted.
    """
    def __init__(
        self, sample_size: typing.SupportsInt | typing.SupportsIndex, folder: str = ""
    ) -> None:
        """
        Sampled numbers lie in `folder`, in memory where it is empty.
        """
    def add(
        self,
        *,
        offsets: numpy.typing.NDArray[numpy.int64],
        subject_id: numpy.typing.NDArray[numpy.int64],
        is_counted: numpy.typing.NDArray[numpy.uint8],
        since_us: numpy.typing.NDArray[numpy.int64],
        role: numpy.typing.NDArray[numpy.uint8],
        key: numpy.typing.NDArray[numpy.int32],
        text: numpy.typing.NDArray[numpy.int32],
        value: numpy.typing.NDArray[numpy.float32],
        time_us: numpy.typing.NDArray[numpy.int64],
        available_us: numpy.typing.NDArray[numpy.int64],
        end_us: numpy.typing.NDArray[numpy.int64],
        visit_id: numpy.typing.NDArray[numpy.int64],
        n_keys: typing.SupportsInt | typing.SupportsIndex,
    ) -> None:
        """
        Takes a batch of whole subjects into account.
        """
    def key_counts(self) -> tuple:
        """
        (events, subjects) of every key.
        """
    def text_counts(self) -> tuple:
        """
        (key, text, subjects), ascending.
        """
    def years(self) -> dict:
        """
        Subjects with an event, by calendar year.
        """
    @property
    def durations(self) -> BottomSample: ...
    @property
    def starts(self) -> BottomSample: ...
    @property
    def values(self) -> BottomSample:
        """
        Numbers, a group a key.
        """

class ContextRules:
    """
    Which tokens begin a kind of visit, and which announce which.
    """
    def __init__(
        self,
        visit_kind: numpy.typing.NDArray[numpy.int8],
        companion: numpy.typing.NDArray[numpy.int32],
        n_kinds: typing.SupportsInt | typing.SupportsIndex,
    ) -> None: ...

class ContextBuffers:
    """
    The context in each buffer of a cache.
    """
    def __init__(
        self, rules: ContextRules, n_buffers: typing.SupportsInt | typing.SupportsIndex
    ) -> None: ...
    def advance(
        self,
        places: numpy.typing.NDArray[numpy.int32],
        token_id: numpy.typing.NDArray[numpy.int32],
        unseen: numpy.typing.NDArray[numpy.float32],
        known: numpy.typing.NDArray[numpy.float32],
        logits: numpy.typing.NDArray[numpy.float32],
    ) -> None:
        """
        Takes each row's token, then adds the biases of its context to its logits.
        """

class KeyValueCache:
    """
    Keys and values by buffer, in pages, and attention over them.
    """
    def __init__(
        self,
        n_buffers: typing.SupportsInt | typing.SupportsIndex,
        *,
        n_layers: typing.SupportsInt | typing.SupportsIndex,
        n_heads: typing.SupportsInt | typing.SupportsIndex,
        n_kv_heads: typing.SupportsInt | typing.SupportsIndex,
        d_head: typing.SupportsInt | typing.SupportsIndex,
        capacity: typing.SupportsInt | typing.SupportsIndex,
        bias: str,
        dtype: str,
    ) -> None: ...
    def attend(
        self,
        layer: typing.SupportsInt | typing.SupportsIndex,
        places: numpy.typing.NDArray[numpy.int32],
        q: numpy.typing.NDArray[numpy.float32],
        k: numpy.typing.NDArray[numpy.float32],
        v: numpy.typing.NDArray[numpy.float32],
        slope: numpy.typing.NDArray[numpy.float32],
        inverse_tau: numpy.typing.NDArray[numpy.float32],
        out: numpy.typing.NDArray[numpy.float32],
    ) -> None:
        """
        Appends k and v of one layer and attends into `out`.
        """
    def release(self, buffer: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Gives a buffer's pages back.
        """
    def write_times(
        self, places: numpy.typing.NDArray[numpy.int32], time_min: numpy.typing.NDArray[numpy.int32]
    ) -> None:
        """
        Clocks of the rows' own tokens, before the layers.
        """
    @property
    def pages_in_use(self) -> int: ...

class DecodeModel:
    """
    A model's decode step with its key-value cache.
    """
    def __init__(
        self,
        sizes: typing.Annotated[
            collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], "FixedSize(7)"
        ],
        *,
        bias: str,
        norm_eps: typing.SupportsFloat | typing.SupportsIndex,
        n_knots: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
        parameters: dict,
        blocks: collections.abc.Sequence[dict],
        rules: ContextRules,
        dtype: str,
    ) -> None: ...
    def open(
        self,
        n_buffers: typing.SupportsInt | typing.SupportsIndex,
        capacity: typing.SupportsInt | typing.SupportsIndex,
        max_pages: typing.SupportsInt | typing.SupportsIndex,
    ) -> None:
        """
        Room for contexts of up to `capacity` tokens.
        """
    def release(self, buffer: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Gives a buffer's pages back.
        """
    def step(
        self,
        token_id: numpy.typing.NDArray[numpy.int32],
        time_min: numpy.typing.NDArray[numpy.int32],
        start_min: numpy.typing.NDArray[numpy.int32],
        places: numpy.typing.NDArray[numpy.int32],
        logits: numpy.typing.NDArray[numpy.float32],
    ) -> None:
        """
        Takes one token a row; fills `logits` (rows, V) unless it is empty.
        """
    def steps(
        self,
        sampler: Sampler,
        *,
        slots: numpy.typing.NDArray[numpy.int32],
        token_id: numpy.typing.NDArray[numpy.int32],
        time_min: numpy.typing.NDArray[numpy.int32],
        start_min: numpy.typing.NDArray[numpy.int32],
        places: numpy.typing.NDArray[numpy.int32],
        logits: numpy.typing.NDArray[numpy.float32],
        status: numpy.typing.NDArray[numpy.uint8],
        max_steps: typing.SupportsInt | typing.SupportsIndex,
    ) -> int:
        """
        Steps and draws in turn until a row's rollout ends; returns how many steps.
        """
    @property
    def page_bytes(self) -> int: ...
    @property
    def pages_in_use(self) -> int: ...
    @property
    def weight_bytes(self) -> int: ...

class ShardArrays:
    """
    A shard's arrays, as batches are made of them.
    """
    def __init__(
        self,
        offsets: numpy.typing.NDArray[numpy.int64],
        token_id: numpy.typing.NDArray[numpy.int32],
        time_min: numpy.typing.NDArray[numpy.int32],
        n_prior: numpy.typing.NDArray[numpy.uint8],
        obs_offsets: numpy.typing.NDArray[numpy.int64],
        obs_start_min: numpy.typing.NDArray[numpy.int32],
        obs_end_min: numpy.typing.NDArray[numpy.int32],
    ) -> None: ...

class SplitArrays:
    """
    The shards of a split, in order.
    """
    def __init__(self, shards: list[ShardArrays]) -> None: ...

class WindowArrays:
    """
    All windows of a split.
    """
    def __init__(
        self,
        timeline: numpy.typing.NDArray[numpy.int64],
        begin: numpy.typing.NDArray[numpy.int64],
        length: numpy.typing.NDArray[numpy.int32],
        n_lead: numpy.typing.NDArray[numpy.int32],
        open_visit: numpy.typing.NDArray[numpy.int64],
        open_detail: numpy.typing.NDArray[numpy.int64],
    ) -> None: ...

class TokenValueArrays:
    """
    The number that each token stands for.
    """
    def __init__(
        self,
        value: numpy.typing.NDArray[numpy.float32],
        bin: numpy.typing.NDArray[numpy.int32],
        first_bin: numpy.typing.NDArray[numpy.int32],
        n_bins: numpy.typing.NDArray[numpy.int32],
        bin_value: numpy.typing.NDArray[numpy.float32],
    ) -> None: ...

class MedsMending:
    """
    Tables and rules by which a MEDS source is mended.
    """
    def __init__(
        self,
        *,
        code_kind: numpy.typing.NDArray[numpy.uint8],
        event_code: numpy.typing.NDArray[numpy.int32],
        is_visit_code: numpy.typing.NDArray[numpy.uint8],
        is_discharge_code: numpy.typing.NDArray[numpy.uint8],
        code_rank: numpy.typing.NDArray[numpy.int32],
        text_kind: numpy.typing.NDArray[numpy.uint8],
        text_number: numpy.typing.NDArray[numpy.float64],
        text_category: numpy.typing.NDArray[numpy.int32],
        is_fixed_text: numpy.typing.NDArray[numpy.uint8],
        visit_table: typing.SupportsInt | typing.SupportsIndex,
        detail_table: typing.SupportsInt | typing.SupportsIndex,
        no_table: typing.SupportsInt | typing.SupportsIndex,
    ) -> None: ...
    def add_pattern(
        self,
        *,
        opens: numpy.typing.NDArray[numpy.uint8],
        closes: numpy.typing.NDArray[numpy.uint8],
        visit_code: numpy.typing.NDArray[numpy.int32],
        closes_itself: bool,
        is_detail: bool,
    ) -> None: ...
    def facts(self) -> dict[str, numpy.ndarray]:
        """
        Facts about all events of the pieces: columns by name.
        """
    def piece(
        self,
        *,
        offsets: numpy.typing.NDArray[numpy.int64],
        is_excluded: numpy.typing.NDArray[numpy.uint8],
        subject_id: numpy.typing.NDArray[numpy.int64],
        rows: dict[str, numpy.ndarray],
    ) -> dict[str, numpy.ndarray]:
        """
        Events of whole subjects in canonical order, and what became of each row: columns by name; those that no event of the source can have are empty.
        """
    def set_facts(
        self, *, is_explicit: bool, is_disjoint: bool, has_visits: bool, is_midnight_date: bool
    ) -> None: ...
    def set_rules(
        self,
        *,
        sentinel_us: numpy.typing.NDArray[numpy.int64],
        prenatal_us: typing.SupportsInt | typing.SupportsIndex,
        future_us: typing.SupportsInt | typing.SupportsIndex,
    ) -> None: ...
    def set_values(
        self,
        *,
        unit_name: numpy.typing.NDArray[numpy.int32],
        conversions: collections.abc.Sequence[
            tuple[
                typing.SupportsInt | typing.SupportsIndex,
                typing.SupportsInt | typing.SupportsIndex,
                typing.SupportsFloat | typing.SupportsIndex,
                typing.SupportsFloat | typing.SupportsIndex,
                typing.SupportsInt | typing.SupportsIndex,
            ]
        ],
        assumed: collections.abc.Sequence[
            tuple[
                typing.SupportsInt | typing.SupportsIndex,
                typing.SupportsInt | typing.SupportsIndex,
                typing.SupportsInt | typing.SupportsIndex,
            ]
        ],
        kept_texts: collections.abc.Sequence[
            tuple[
                typing.SupportsInt | typing.SupportsIndex,
                typing.SupportsInt | typing.SupportsIndex,
                typing.SupportsInt | typing.SupportsIndex,
            ]
        ],
        table_rank: numpy.typing.NDArray[numpy.int32],
        unit_rank: numpy.typing.NDArray[numpy.int32],
        text_rank: numpy.typing.NDArray[numpy.int32],
        female: typing.SupportsInt | typing.SupportsIndex,
        male: typing.SupportsInt | typing.SupportsIndex,
        artificial: typing.SupportsInt | typing.SupportsIndex,
    ) -> None: ...
    def set_visit_codes(
        self,
        *,
        discharge_code: numpy.typing.NDArray[numpy.int32],
        is_bare: numpy.typing.NDArray[numpy.uint8],
        visit_class: numpy.typing.NDArray[numpy.uint8],
        stay_code: typing.SupportsInt | typing.SupportsIndex,
        artificial_code: typing.SupportsInt | typing.SupportsIndex,
        inpatient_us: typing.SupportsInt | typing.SupportsIndex,
        ed_link_us: typing.SupportsInt | typing.SupportsIndex,
        merges: bool,
    ) -> None: ...
    def survey(
        self,
        *,
        offsets: numpy.typing.NDArray[numpy.int64],
        is_excluded: numpy.typing.NDArray[numpy.uint8],
        rows: dict[str, numpy.ndarray],
    ) -> numpy.typing.NDArray[numpy.int64]:
        """
        Facts about visits: rows that are visits, overlaps, staged, at midnight, mended; counts values.
        """
    def texts(self) -> dict[str, numpy.ndarray]:
        """
        Texts of codes that `survey` counted: table, code, text, n_events, n_subjects, (n,) each.
        """
    def unit_values(
        self,
        *,
        offsets: numpy.typing.NDArray[numpy.int64],
        is_excluded: numpy.typing.NDArray[numpy.uint8],
        rows: dict[str, numpy.ndarray],
        is_chosen: numpy.typing.NDArray[numpy.uint8],
    ) -> dict[str, numpy.ndarray]:
        """
        Numbers of the chosen (table, code) by their units: those of table[i], code[i], unit[i] are number[offsets[i]:offsets[i + 1]]. is_chosen: (n_tables * n_codes,).
        """
    def units(self) -> dict[str, numpy.ndarray]:
        """
        Codes with numbers, in each unit once: table, code, unit, (n,) each.
        """
    @property
    def n_codes(self) -> int: ...

class RecordCensus:
    """
    What the rules need to know about all clinical records of a source.
    """
    def __init__(
        self,
        *,
        subjects: numpy.typing.NDArray[numpy.int64],
        excluded: numpy.typing.NDArray[numpy.int64],
        sentinel_us: numpy.typing.NDArray[numpy.int64],
        border_us: typing.SupportsInt | typing.SupportsIndex,
        zero: typing.SupportsInt | typing.SupportsIndex,
        uses_source_concept: bool,
    ) -> None: ...
    def drugs(self) -> list[int]: ...
    def names(self) -> list[int]: ...
    def source_codes(self) -> list[int]: ...
    def take(
        self,
        subject_id: numpy.typing.NDArray[numpy.int64],
        rows: dict[str, numpy.ndarray],
        *,
        table: typing.SupportsInt | typing.SupportsIndex,
        is_drug: bool,
    ) -> tuple:
        """
        Counts records of one table. Of each row: the subject's place, -1 where it is not known, and why it is removed; and how many are known.
        """
    def values(self) -> list[int]: ...
    @property
    def midnights(self) -> dict[tuple[int, int], typing.Annotated[list[int], "FixedSize(2)"]]:
        """
        By table and type (a concept's number or -1): records with a time of day, and those at 00:00:00.
        """
    @property
    def n_dated(self) -> int:
        """
        Times outside of sentinel years.
        """
    @property
    def n_late(self) -> int:
        """
        Of them, those after the border.
        """

class OmopMending:
    """
    Tables and rules by which the records of an OMOP source are mended.
    """
    def __init__(
        self,
        tables: dict[str, numpy.ndarray],
        *,
        no_code: typing.SupportsInt | typing.SupportsIndex,
        artificial_code: typing.SupportsInt | typing.SupportsIndex,
        drug_table: typing.SupportsInt | typing.SupportsIndex,
        condition_table: typing.SupportsInt | typing.SupportsIndex,
        visit_table: typing.SupportsInt | typing.SupportsIndex,
    ) -> None: ...
    def drug_types(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        Types of kept drug records.
        """
    def facts(self) -> dict[str, numpy.ndarray]:
        """
        Facts about all events of the pieces: columns by name.
        """
    def piece(
        self,
        *,
        subjects: dict[str, numpy.ndarray],
        rows: dict[str, numpy.ndarray],
        visits: dict[str, numpy.ndarray],
        others: dict[str, numpy.ndarray],
    ) -> dict[str, numpy.ndarray]:
        """
        Events of whole subjects in canonical order, and what became of each row: columns by name; those that no event of the source can have are empty.
        """
    def set_codes(self, code_rank: numpy.typing.NDArray[numpy.int32]) -> None:
        """
        Codes by number: their places in byte order, which only `piece` looks at.
        """
    def set_drug_texts(self, drug_text: numpy.typing.NDArray[numpy.int32]) -> None:
        """
        By concept number of a type: the text of drug records of it, -1 for none.
        """
    def set_rules(
        self,
        *,
        sentinel_us: numpy.typing.NDArray[numpy.int64],
        prenatal_us: typing.SupportsInt | typing.SupportsIndex,
        future_us: typing.SupportsInt | typing.SupportsIndex,
        local_concept: typing.SupportsInt | typing.SupportsIndex,
        uses_source_concept: bool,
        drops_unmapped: bool,
        has_drug_stop: bool,
    ) -> None: ...
    def set_texts(
        self,
        *,
        positive: typing.SupportsInt | typing.SupportsIndex,
        negative: typing.SupportsInt | typing.SupportsIndex,
        stop: typing.SupportsInt | typing.SupportsIndex,
    ) -> None: ...
    def set_values(
        self,
        *,
        unit_name: numpy.typing.NDArray[numpy.int32],
        conversions: collections.abc.Sequence[
            tuple[
                typing.SupportsInt | typing.SupportsIndex,
                typing.SupportsInt | typing.SupportsIndex,
                typing.SupportsFloat | typing.SupportsIndex,
                typing.SupportsFloat | typing.SupportsIndex,
                typing.SupportsInt | typing.SupportsIndex,
            ]
        ],
        assumed: collections.abc.Sequence[
            tuple[
                typing.SupportsInt | typing.SupportsIndex,
                typing.SupportsInt | typing.SupportsIndex,
                typing.SupportsInt | typing.SupportsIndex,
            ]
        ],
        kept_texts: collections.abc.Sequence[
            tuple[
                typing.SupportsInt | typing.SupportsIndex,
                typing.SupportsInt | typing.SupportsIndex,
                typing.SupportsInt | typing.SupportsIndex,
            ]
        ],
        unit_rank: numpy.typing.NDArray[numpy.int32],
        text_rank: numpy.typing.NDArray[numpy.int32],
        female: typing.SupportsInt | typing.SupportsIndex,
        male: typing.SupportsInt | typing.SupportsIndex,
        artificial: typing.SupportsInt | typing.SupportsIndex,
        has_visits: bool,
    ) -> None: ...
    def survey(
        self,
        *,
        subjects: dict[str, numpy.ndarray],
        rows: dict[str, numpy.ndarray],
        visits: dict[str, numpy.ndarray],
    ) -> dict[str, numpy.ndarray]:
        """
        First pass: the last times of each visit's records; counts values.
        """
    def texts(self) -> dict[str, numpy.ndarray]:
        """
        Texts of codes that `survey` counted: table, code, text, n_events, n_subjects, (n,) each.
        """
    def unit_values(
        self,
        *,
        subjects: dict[str, numpy.ndarray],
        rows: dict[str, numpy.ndarray],
        is_chosen: numpy.typing.NDArray[numpy.uint8],
    ) -> dict[str, numpy.ndarray]:
        """
        Numbers of the chosen (table, code) by their units: those of table[i], code[i], unit[i] are number[offsets[i]:offsets[i + 1]]. is_chosen: (n_tables * n_codes,).
        """
    def units(self) -> dict[str, numpy.ndarray]:
        """
        Codes with numbers, in each unit once: table, code, unit, (n,) each.
        """
    @property
    def n_codes(self) -> int: ...

class TokenizerCore:
    def __init__(
        self, encode_tables: typing.Any, token_columns: typing.Any, has_age: bool
    ) -> None: ...
    def decode(
        self, batch: typing.Any, threads: typing.SupportsInt | typing.SupportsIndex = 1
    ) -> dict: ...
    def encode(
        self, given: typing.Any, threads: typing.SupportsInt | typing.SupportsIndex = 1
    ) -> dict: ...
    def fingerprints(self, given: typing.Any) -> numpy.typing.NDArray[numpy.uint64]:
        """
        One number a subject for all that `encode` reads of it: uint64 (n,).
        """

def context_lists(
    rules: ContextRules,
    token_id: numpy.typing.NDArray[numpy.int64],
    cu_seqlens: numpy.typing.NDArray[numpy.int32],
    places: numpy.typing.NDArray[numpy.int64],
    column: numpy.typing.NDArray[numpy.int64],
) -> tuple[
    numpy.typing.NDArray[numpy.int64],
    numpy.typing.NDArray[numpy.int64],
    numpy.typing.NDArray[numpy.int32],
    numpy.typing.NDArray[numpy.uint8],
]:
    """
    Kind of visit, offsets, entries (v: seen, V + v: announced) of each place's context, and the state of the token after it.
    """

@typing.overload
def copy_rows(
    offsets: numpy.typing.NDArray[numpy.int64],
    rows: numpy.typing.NDArray[numpy.int64],
    values: numpy.typing.NDArray[numpy.int32],
    out: numpy.typing.NDArray[numpy.int32],
) -> None:
    """
    Fills `out` with the values offsets[r] .. offsets[r + 1] of each of the rows r.
    """

@typing.overload
def copy_rows(
    offsets: numpy.typing.NDArray[numpy.int64],
    rows: numpy.typing.NDArray[numpy.int64],
    values: numpy.typing.NDArray[numpy.uint8],
    out: numpy.typing.NDArray[numpy.uint8],
) -> None:
    """
    Fills `out` with the values offsets[r] .. offsets[r + 1] of each of the rows r.
    """

@typing.overload
def copy_rows(
    offsets: numpy.typing.NDArray[numpy.int64],
    rows: numpy.typing.NDArray[numpy.int64],
    values: numpy.typing.NDArray[numpy.int64],
    out: numpy.typing.NDArray[numpy.int64],
) -> None:
    """
    Fills `out` with the values offsets[r] .. offsets[r + 1] of each of the rows r.
    """

@typing.overload
def copy_rows(
    offsets: numpy.typing.NDArray[numpy.int64],
    rows: numpy.typing.NDArray[numpy.int64],
    values: numpy.typing.NDArray[numpy.uint16],
    out: numpy.typing.NDArray[numpy.uint16],
) -> None:
    """
    Fills `out` with the values offsets[r] .. offsets[r + 1] of each of the rows r.
    """

@typing.overload
def copy_rows(
    offsets: numpy.typing.NDArray[numpy.int64],
    rows: numpy.typing.NDArray[numpy.int64],
    values: numpy.typing.NDArray[numpy.float64],
    out: numpy.typing.NDArray[numpy.float64],
) -> None:
    """
    Fills `out` with the values offsets[r] .. offsets[r + 1] of each of the rows r.
    """

def count_contexts(
    rules: ContextRules,
    offsets: numpy.typing.NDArray[numpy.int64],
    token_id: numpy.typing.NDArray[numpy.int32],
) -> tuple[numpy.typing.NDArray[numpy.int64], numpy.typing.NDArray[numpy.int64]]:
    """
    Times that each token came next and places where it might have, by state and kind.
    """

def count_known(
    split: SplitArrays,
    timeline: numpy.typing.NDArray[numpy.int64],
    until_min: numpy.typing.NDArray[numpy.int64],
    end_id: typing.SupportsInt | typing.SupportsIndex,
) -> numpy.typing.NDArray[numpy.int64]:
    """
    Tokens of each timeline whose clock is at most a minute, its `end` not counted.
    """

def count_precedence(
    offsets: numpy.typing.NDArray[numpy.int64],
    token_id: numpy.typing.NDArray[numpy.int32],
    candidate: numpy.typing.NDArray[numpy.int32],
    n_candidates: typing.SupportsInt | typing.SupportsIndex,
) -> tuple[
    numpy.typing.NDArray[numpy.int64],
    numpy.typing.NDArray[numpy.int64],
    numpy.typing.NDArray[numpy.int64],
]:
    """
    Timelines in which candidate u came before v, that hold v, and places that hold v.
    """

def cross_entropy(
    logits: numpy.typing.NDArray[numpy.float32],
    unseen: numpy.typing.NDArray[numpy.float32],
    known: numpy.typing.NDArray[numpy.float32],
    target: numpy.typing.NDArray[numpy.int64],
    weight: numpy.typing.NDArray[numpy.float32],
    kind: numpy.typing.NDArray[numpy.int64],
    offsets: numpy.typing.NDArray[numpy.int64],
    entry: numpy.typing.NDArray[numpy.int32],
    losses: numpy.typing.NDArray[numpy.float32],
    d_unseen: numpy.typing.NDArray[numpy.float32],
    d_known: numpy.typing.NDArray[numpy.float32],
    n_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Logits (n, V) become their gradient; fills losses, adds to the biases' gradients.
    """

def cut_windows(
    offsets: numpy.typing.NDArray[numpy.int64],
    token_id: numpy.typing.NDArray[numpy.int32],
    token_class: numpy.typing.NDArray[numpy.uint8],
    row_tokens: typing.SupportsInt | typing.SupportsIndex,
    n_prompt: typing.SupportsInt | typing.SupportsIndex,
) -> tuple[
    numpy.typing.NDArray[numpy.int64],
    numpy.typing.NDArray[numpy.int64],
    numpy.typing.NDArray[numpy.int32],
    numpy.typing.NDArray[numpy.int32],
    numpy.typing.NDArray[numpy.int64],
    numpy.typing.NDArray[numpy.int64],
]:
    """
    Windows (timeline, begin, length, n_lead, open_visit, open_detail) of a shard.
    """

def decode_level() -> str:
    """
    What the decode step's loops are compiled for: x86-64, -v3, -v4, and with -v4 dot (AVX-512's dot products of bf16 and int8) or amx.
    """

@typing.overload
def fill_null(
    values: numpy.typing.NDArray[numpy.uint8],
    valid: numpy.typing.NDArray[numpy.uint8],
    first_bit: typing.SupportsInt | typing.SupportsIndex,
    null: typing.SupportsInt | typing.SupportsIndex,
) -> numpy.typing.NDArray[numpy.uint8]:
    """
    An unsigned column with `null` where Arrow's bitmap has no bit: the given array where that is so already, else a copy.
    """

@typing.overload
def fill_null(
    values: numpy.typing.NDArray[numpy.uint32],
    valid: numpy.typing.NDArray[numpy.uint8],
    first_bit: typing.SupportsInt | typing.SupportsIndex,
    null: typing.SupportsInt | typing.SupportsIndex,
) -> numpy.typing.NDArray[numpy.uint32]:
    """
    An unsigned column with `null` where Arrow's bitmap has no bit: the given array where that is so already, else a copy.
    """

@typing.overload
def fill_null(
    values: numpy.typing.NDArray[numpy.uint64],
    valid: numpy.typing.NDArray[numpy.uint8],
    first_bit: typing.SupportsInt | typing.SupportsIndex,
    null: typing.SupportsInt | typing.SupportsIndex,
) -> numpy.typing.NDArray[numpy.uint64]:
    """
    An unsigned column with `null` where Arrow's bitmap has no bit: the given array where that is so already, else a copy.
    """

def fill_padded(
    split: SplitArrays,
    timeline: numpy.typing.NDArray[numpy.int64],
    begin: numpy.typing.NDArray[numpy.int64],
    length: numpy.typing.NDArray[numpy.int64],
    static_tokens: numpy.typing.NDArray[numpy.int32],
    values: TokenValueArrays,
    width: typing.SupportsInt | typing.SupportsIndex,
    left: bool,
) -> tuple[
    numpy.typing.NDArray[numpy.int64],
    numpy.typing.NDArray[numpy.float32],
    numpy.typing.NDArray[numpy.uint8],
    numpy.typing.NDArray[numpy.float32],
    numpy.typing.NDArray[numpy.uint8],
]:
    """
    Padded rows (code, value, has_value, delta_days, is_static) of parts of timelines.
    """

def fill_rows(
    split: SplitArrays,
    windows: WindowArrays,
    window: numpy.typing.NDArray[numpy.int64],
    row_offsets: numpy.typing.NDArray[numpy.int64],
    prompt: numpy.typing.NDArray[numpy.int32],
    token_class: numpy.typing.NDArray[numpy.uint8],
    row_tokens: typing.SupportsInt | typing.SupportsIndex,
    max_segments: typing.SupportsInt | typing.SupportsIndex,
) -> tuple[
    numpy.typing.NDArray[numpy.int32],
    numpy.typing.NDArray[numpy.int32],
    numpy.typing.NDArray[numpy.uint8],
    numpy.typing.NDArray[numpy.uint8],
    numpy.typing.NDArray[numpy.int32],
    numpy.typing.NDArray[numpy.int64],
    numpy.typing.NDArray[numpy.int64],
    numpy.typing.NDArray[numpy.int32],
]:
    """
    Rows (token_id, time_min, n_prior, loss_mask, cu_seqlens, timeline, begin, n_lead).
    """

def fit_value_bins(
    *,
    value: numpy.typing.NDArray[numpy.float32],
    subject: numpy.typing.NDArray[numpy.uint64],
    offsets: numpy.typing.NDArray[numpy.int64],
    n_bins: typing.SupportsInt | typing.SupportsIndex,
    min_subjects: typing.SupportsInt | typing.SupportsIndex,
) -> dict:
    """
    Quantile bins of groups of sampled values: flat columns.
    """

@typing.overload
def gate_rows(
    gate_and_up: numpy.typing.NDArray[numpy.float32],
    width: typing.SupportsInt | typing.SupportsIndex,
    out: numpy.typing.NDArray[numpy.float32],
    n_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Fills out (n, width) with silu(gate) * up.
    """

@typing.overload
def gate_rows(
    gate_and_up: numpy.typing.NDArray[numpy.uint16],
    width: typing.SupportsInt | typing.SupportsIndex,
    out: numpy.typing.NDArray[numpy.uint16],
    n_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Fills out (n, width) with silu(gate) * up.
    """

@typing.overload
def gate_rows_backward(
    gate_and_up: numpy.typing.NDArray[numpy.float32],
    width: typing.SupportsInt | typing.SupportsIndex,
    d_out: numpy.typing.NDArray[numpy.float32],
    d_gate_and_up: numpy.typing.NDArray[numpy.float32],
    n_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Fills the gradient of gate_and_up; d_out becomes silu(gate) * up.
    """

@typing.overload
def gate_rows_backward(
    gate_and_up: numpy.typing.NDArray[numpy.uint16],
    width: typing.SupportsInt | typing.SupportsIndex,
    d_out: numpy.typing.NDArray[numpy.uint16],
    d_gate_and_up: numpy.typing.NDArray[numpy.uint16],
    n_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Fills the gradient of gate_and_up; d_out becomes silu(gate) * up.
    """

@typing.overload
def head_rows(
    projected: numpy.typing.NDArray[numpy.float32],
    query_weight: numpy.typing.NDArray[numpy.float32],
    key_weight: numpy.typing.NDArray[numpy.float32],
    cosine: numpy.typing.NDArray[numpy.float32],
    sine: numpy.typing.NDArray[numpy.float32],
    eps: typing.SupportsFloat | typing.SupportsIndex,
    q: numpy.typing.NDArray[numpy.float32],
    k: numpy.typing.NDArray[numpy.float32],
    v: numpy.typing.NDArray[numpy.float32],
    inverse: numpy.typing.NDArray[numpy.float32],
    n_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Splits a joint projection into q, k and v, normalizes and rotates q and k.
    """

@typing.overload
def head_rows(
    projected: numpy.typing.NDArray[numpy.uint16],
    query_weight: numpy.typing.NDArray[numpy.float32],
    key_weight: numpy.typing.NDArray[numpy.float32],
    cosine: numpy.typing.NDArray[numpy.float32],
    sine: numpy.typing.NDArray[numpy.float32],
    eps: typing.SupportsFloat | typing.SupportsIndex,
    q: numpy.typing.NDArray[numpy.float32],
    k: numpy.typing.NDArray[numpy.float32],
    v: numpy.typing.NDArray[numpy.float32],
    inverse: numpy.typing.NDArray[numpy.float32],
    n_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Splits a joint projection into q, k and v, normalizes and rotates q and k.
    """

@typing.overload
def head_rows_backward(
    projected: numpy.typing.NDArray[numpy.float32],
    query_weight: numpy.typing.NDArray[numpy.float32],
    key_weight: numpy.typing.NDArray[numpy.float32],
    cosine: numpy.typing.NDArray[numpy.float32],
    sine: numpy.typing.NDArray[numpy.float32],
    eps: typing.SupportsFloat | typing.SupportsIndex,
    inverse: numpy.typing.NDArray[numpy.float32],
    d_q: numpy.typing.NDArray[numpy.float32],
    d_k: numpy.typing.NDArray[numpy.float32],
    d_v: numpy.typing.NDArray[numpy.float32],
    d_projected: numpy.typing.NDArray[numpy.float32],
    d_query_weight: numpy.typing.NDArray[numpy.float32],
    d_key_weight: numpy.typing.NDArray[numpy.float32],
    n_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Fills the gradient of the projection, adds to those of the norms' weights.
    """

@typing.overload
def head_rows_backward(
    projected: numpy.typing.NDArray[numpy.uint16],
    query_weight: numpy.typing.NDArray[numpy.float32],
    key_weight: numpy.typing.NDArray[numpy.float32],
    cosine: numpy.typing.NDArray[numpy.float32],
    sine: numpy.typing.NDArray[numpy.float32],
    eps: typing.SupportsFloat | typing.SupportsIndex,
    inverse: numpy.typing.NDArray[numpy.float32],
    d_q: numpy.typing.NDArray[numpy.float32],
    d_k: numpy.typing.NDArray[numpy.float32],
    d_v: numpy.typing.NDArray[numpy.float32],
    d_projected: numpy.typing.NDArray[numpy.uint16],
    d_query_weight: numpy.typing.NDArray[numpy.float32],
    d_key_weight: numpy.typing.NDArray[numpy.float32],
    n_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Fills the gradient of the projection, adds to those of the norms' weights.
    """

def mend_visits(
    visit_offsets: numpy.typing.NDArray[numpy.int64],
    start: numpy.typing.NDArray[numpy.int64],
    finish: numpy.typing.NDArray[numpy.int64],
    order: numpy.typing.NDArray[numpy.int32],
    source_class: numpy.typing.NDArray[numpy.uint8],
    is_start_date: numpy.typing.NDArray[numpy.uint8],
    is_end_date: numpy.typing.NDArray[numpy.uint8],
    is_gone: numpy.typing.NDArray[numpy.uint8],
    has_discharge: numpy.typing.NDArray[numpy.uint8],
    death: numpy.typing.NDArray[numpy.int64],
    record_offsets: numpy.typing.NDArray[numpy.int64],
    record_visit: numpy.typing.NDArray[numpy.int64],
    record_time: numpy.typing.NDArray[numpy.int64],
    record_is_date: numpy.typing.NDArray[numpy.uint8],
    inpatient_us: typing.SupportsInt | typing.SupportsIndex,
    ed_link_us: typing.SupportsInt | typing.SupportsIndex,
    merges: bool = True,
) -> dict[str, numpy.ndarray]:
    """
    Visits of whole subjects made disjoint: columns by name.
    """

@typing.overload
def norm_rows(
    x: numpy.typing.NDArray[numpy.float32],
    weight: numpy.typing.NDArray[numpy.float32],
    eps: typing.SupportsFloat | typing.SupportsIndex,
    out: numpy.typing.NDArray[numpy.float32],
    inverse: numpy.typing.NDArray[numpy.float32],
    n_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Fills out with x / rms(x) * weight and inverse with 1 / rms.
    """

@typing.overload
def norm_rows(
    x: numpy.typing.NDArray[numpy.float32],
    weight: numpy.typing.NDArray[numpy.float32],
    eps: typing.SupportsFloat | typing.SupportsIndex,
    out: numpy.typing.NDArray[numpy.uint16],
    inverse: numpy.typing.NDArray[numpy.float32],
    n_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Fills out with x / rms(x) * weight and inverse with 1 / rms.
    """

@typing.overload
def norm_rows_backward(
    x: numpy.typing.NDArray[numpy.float32],
    weight: numpy.typing.NDArray[numpy.float32],
    inverse: numpy.typing.NDArray[numpy.float32],
    d_out: numpy.typing.NDArray[numpy.float32],
    d_x: numpy.typing.NDArray[numpy.float32],
    d_weight: numpy.typing.NDArray[numpy.float32],
    n_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Fills d_x, adds to d_weight.
    """

@typing.overload
def norm_rows_backward(
    x: numpy.typing.NDArray[numpy.float32],
    weight: numpy.typing.NDArray[numpy.float32],
    inverse: numpy.typing.NDArray[numpy.float32],
    d_out: numpy.typing.NDArray[numpy.uint16],
    d_x: numpy.typing.NDArray[numpy.float32],
    d_weight: numpy.typing.NDArray[numpy.float32],
    n_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Fills d_x, adds to d_weight.
    """

def pack_rows(
    lengths: numpy.typing.NDArray[numpy.int32],
    order: numpy.typing.NDArray[numpy.int64],
    row_tokens: typing.SupportsInt | typing.SupportsIndex,
    max_segments: typing.SupportsInt | typing.SupportsIndex,
    block: typing.SupportsInt | typing.SupportsIndex,
) -> tuple[numpy.typing.NDArray[numpy.int64], numpy.typing.NDArray[numpy.int64]]:
    """
    Best fit in order, inside blocks: row offsets and the windows of each row.
    """

def packed_attention(
    q: numpy.typing.NDArray[numpy.float32],
    k: numpy.typing.NDArray[numpy.float32],
    v: numpy.typing.NDArray[numpy.float32],
    time_min: numpy.typing.NDArray[numpy.int32],
    cu_seqlens: numpy.typing.NDArray[numpy.int32],
    kv_end: numpy.typing.NDArray[numpy.int32],
    a: numpy.typing.NDArray[numpy.float32],
    tau: numpy.typing.NDArray[numpy.float32],
    bias: str,
    in_bf16: bool,
    out: numpy.typing.NDArray[numpy.float32],
    log_sum: numpy.typing.NDArray[numpy.float32],
    n_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Fills out (T, heads, d_head) and log_sum (T, heads); kv_end empty is causal.
    """

def packed_attention_backward(
    d_out: numpy.typing.NDArray[numpy.float32],
    q: numpy.typing.NDArray[numpy.float32],
    k: numpy.typing.NDArray[numpy.float32],
    v: numpy.typing.NDArray[numpy.float32],
    out: numpy.typing.NDArray[numpy.float32],
    log_sum: numpy.typing.NDArray[numpy.float32],
    time_min: numpy.typing.NDArray[numpy.int32],
    cu_seqlens: numpy.typing.NDArray[numpy.int32],
    kv_end: numpy.typing.NDArray[numpy.int32],
    a: numpy.typing.NDArray[numpy.float32],
    tau: numpy.typing.NDArray[numpy.float32],
    bias: str,
    in_bf16: bool,
    d_q: numpy.typing.NDArray[numpy.float32],
    d_k: numpy.typing.NDArray[numpy.float32],
    d_v: numpy.typing.NDArray[numpy.float32],
    d_a: numpy.typing.NDArray[numpy.float64],
    d_tau: numpy.typing.NDArray[numpy.float64],
    n_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Adds the gradients of q, k, v, a and tau to arrays that are zero.
    """

def philox4x32(
    key: typing.SupportsInt | typing.SupportsIndex, counters: numpy.typing.NDArray[numpy.uint32]
) -> numpy.typing.NDArray[numpy.uint32]:
    """
    Philox4x32-10 blocks: uint32 (n, 4) counters to uint32 (n, 4) words.
    """

@typing.overload
def put_rows(
    offsets: numpy.typing.NDArray[numpy.int64],
    rows: numpy.typing.NDArray[numpy.int64],
    values: numpy.typing.NDArray[numpy.uint8],
    out: numpy.typing.NDArray[numpy.uint8],
) -> None:
    """
    Fills out[offsets[r]:offsets[r + 1]] of each of the rows r, one after the other.
    """

@typing.overload
def put_rows(
    offsets: numpy.typing.NDArray[numpy.int64],
    rows: numpy.typing.NDArray[numpy.int64],
    values: numpy.typing.NDArray[numpy.uint32],
    out: numpy.typing.NDArray[numpy.uint32],
) -> None:
    """
    Fills out[offsets[r]:offsets[r + 1]] of each of the rows r, one after the other.
    """

def read_csv(
    block: typing_extensions.Buffer,
    *,
    delimiter: str,
    kinds: numpy.typing.NDArray[numpy.uint8],
    ends_with_return: bool,
    max_line_bytes: typing.SupportsInt | typing.SupportsIndex,
    n_bytes: typing.SupportsInt | typing.SupportsIndex,
    is_last: bool,
) -> CsvPiece:
    """
    Whole rows of the first bytes of a block of delimited text.
    """

def read_heads(
    split: SplitArrays,
    timeline: numpy.typing.NDArray[numpy.int64],
    position: numpy.typing.NDArray[numpy.int64],
    n_prompt: typing.SupportsInt | typing.SupportsIndex,
) -> tuple[numpy.typing.NDArray[numpy.int32], numpy.typing.NDArray[numpy.int32]]:
    """
    Each timeline's first tokens, and its clock at a position.
    """

def splitmix64(words: numpy.typing.NDArray[numpy.uint64]) -> numpy.typing.NDArray[numpy.uint64]:
    """
    splitmix64 of each uint64 word.
    """

def subject_offsets(
    subject_id: numpy.typing.NDArray[numpy.int64],
) -> numpy.typing.NDArray[numpy.int64]:
    """
    Where the rows of each subject begin, and the end of all; ids must ascend.
    """

def use_decode_level(name: str) -> None:
    """
    Takes a lower level than the processor's best, for models made from then on (tests).
    """

def validate_timelines(
    grammar: typing.Any,
    batch: typing.Any,
    complete: bool,
    threads: typing.SupportsInt | typing.SupportsIndex = 1,
) -> tuple: ...

CHANGES: tuple = (
    "prenatal",
    "sentinel_end",
    "end_before_start",
    "value_not_finite",
    "value_from_text",
    "value_bounded",
    "value_not_done",
    "value_category",
    "text_free",
    "death_date_only",
    "visit_end_after_death",
    "visit_extended",
    "visit_inpatient_by_length",
    "visit_overlap_clamped",
    "clamped_to_visit",
    "relinked_by_date",
    "artificial_visit",
    "unit_converted",
    "unit_assumed",
    "unit_missing",
    "text_rare",
)
DURATION_GROUPS: int = 64
RECORD_CHANGES: tuple = (
    "prenatal",
    "unparsable_end",
    "sentinel_end",
    "end_before_start",
    "value_not_finite",
    "value_unparsable",
    "value_from_text",
    "value_bounded",
    "value_not_done",
    "value_category",
    "text_free",
    "multiple_targets",
    "clamped_to_visit",
    "relinked_by_date",
    "artificial_visit",
    "stamped_diagnosis",
    "date_only_in_visit",
    "date_only_day",
    "unmapped",
    "local_concept",
    "multi_ingredient",
    "ingredient_rollup",
    "unit_converted",
    "unit_assumed",
    "unit_missing",
    "text_rare",
)
RECORD_REMOVALS: tuple = (
    "",
    "missing_subject",
    "excluded_subject",
    "unknown_person",
    "exact_duplicate",
    "unparsable_time",
    "missing_time",
    "sentinel_time",
    "before_birth",
    "future_date",
    "after_death",
    "unmapped_dropped",
    "multiple_targets_merged",
)
REMOVALS: tuple = (
    "",
    "missing_subject",
    "excluded_subject",
    "missing_code",
    "exact_duplicate",
    "missing_time",
    "sentinel_time",
    "before_birth",
    "future_date",
    "death_duplicate",
    "birth_duplicate",
    "static_duplicate",
    "after_death",
    "visit_merged",
    "ed_linked",
    "outpatient_in_stay",
    "detail_without_visit",
    "discharge_not_used",
)
RULES_VERSION: int = 1
__version__: str = "0.1.0"
