"""A token store of preset cehr as the Parquet files that CEHR-GPT 0.1.9 trains on.

    OUT/patient_sequence/train/*.parquet   splits train and tuning: `--data_folder`
    OUT/patient_sequence/test/*.parquet    split held_out: `--test_data_folder`
    OUT/patient_splits/0.parquet           who is train, validation, test: `--patient_splits_path`
    OUT/export.json                        counts; written last, so that a folder with it is whole

One row a subject, one list element a token; `end` is left out (CEHR-GPT's collator appends it). A
value is a property of its code's position there, not a token: a bin is told by its median.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from chronoward import files
from chronoward.errors import ConfigError
from chronoward.schema import SPLITS
from chronoward.store import TokenStore
from chronoward.tokenizer import TokenClass, Tokenizer
from chronoward.tokenizer.time_scheme import DAY_MIN, YEAR_DAYS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from chronoward.store import Shard
    from chronoward.tokenizer.spec import TokenizerSpec
    from chronoward.tokenizer.vocabulary import Token, Vocabulary

MANIFEST: Final = "export.json"
NO_UNIT: Final = "N/A"
NO_ANSWER: Final = "0"
US_PER_S: Final = 1_000_000
TOP_AGE: Final = 90  # as the age tokens are top-coded
FOLDERS: Final = {"train": "train", "tuning": "train", "held_out": "test"}
SPLIT_NAMES: Final = {"train": "train", "tuning": "validation", "held_out": "test"}
_SLICE_TOKENS: Final = 1 << 20
_VISIT_TYPES: Final = (TokenClass.VISIT_TYPE, TokenClass.FLAT_VISIT_TYPE)
_LEFT_OUT: Final = (TokenClass.PAD, TokenClass.END, TokenClass.CONTINUED, TokenClass.VALUE)


def _list_of(kind: pa.DataType) -> pa.ListType:
    return pa.list_(pa.field("element", kind))  # Parquet's own name for it


def schema() -> pa.Schema:
    """Columns of a patient sequence; every list has one element a token."""
    texts, numbers, small = (_list_of(t) for t in (pa.string(), pa.float32(), pa.int32()))
    return pa.schema(
        {
            "person_id": pa.int64(),
            "concept_ids": texts,
            "ages": small,
            "epoch_times": _list_of(pa.int64()),
            "concept_value_masks": small,
            "number_as_values": numbers,
            "concept_as_values": texts,
            "is_numeric_types": small,
            "units": texts,
            "record_ranks": small,
            "num_of_visits": pa.int64(),
            "num_of_concepts": pa.int64(),
        }
    )


@dataclass(frozen=True, eq=False)
class _Columns:
    """What each token of a vocabulary is called and worth, (V,); texts are Arrow arrays."""

    token_class: NDArray[np.uint8]
    is_kept: NDArray[np.bool_]
    concept: pa.Array
    unit: pa.Array
    number: NDArray[np.float32]  # of fused tokens, else NaN
    answer: pa.Array  # null where there is none
    entry: NDArray[np.int64]
    value_bin: NDArray[np.int64]  # of `value` tokens
    median: NDArray[np.float32]  # of all bins, entry by entry
    first_bin: NDArray[np.int64]  # (entries + 1,)
    unknown_age: int


def _check(spec: TokenizerSpec, tokens: Path | str) -> None:
    if spec.preset != "cehr":
        message = (
            f"{tokens} was made with preset {spec.preset}; CEHR-GPT reads the tokens of preset "
            "cehr: make a store with `chronoward tokenize SRC --preset cehr`"
        )
        raise ConfigError(message)
    if spec.time_scheme == "log":
        message = f"{tokens} has time scheme log, which CEHR-GPT cannot read"
        raise ConfigError(message)
    if len(spec.prompt_fields) != 4:
        message = (
            f"{tokens} has the prompt {', '.join(spec.prompt_fields)}; CEHR-GPT needs year, age, "
            "sex and race (dates that were moved have no year unless the ingest dial `calendar` "
            "is `real`)"
        )
        raise ConfigError(message)


def _concept(token: Token, vocabulary: Vocabulary) -> str:
    """A token's name in CEHR-GPT: the concept id, or the code where there is none."""
    if token.token_class == TokenClass.AGE:
        return token.label.removesuffix("+")
    if token.label == "i-2mt+":
        return "i-2mt-6mt"
    is_ours = token.entry < 0 or token.token_class in (TokenClass.DEATH, TokenClass.SEX)
    entry = vocabulary.codes[token.entry]
    if is_ours and not (token.entry >= 0 and entry.concept_id > 0 and entry.kind == "sex"):
        return token.label
    return str(entry.concept_id) if entry.concept_id > 0 else entry.code


def _is_silent(token: Token, spec: TokenizerSpec) -> bool:
    """ETHOS tells no gap under five minutes; our grammar names it."""
    is_gap = token.token_class in (TokenClass.GAP, TokenClass.INPATIENT_GAP)
    return spec.time_scheme == "ethos" and is_gap and token.lo < 5


def _make_columns(vocabulary: Vocabulary) -> _Columns:
    knots, start, length, first_bin = vocabulary.value_knots
    middle = (start + (start + length - 1)) / 2  # the grid of a quantile function is even
    low = np.floor(middle).astype(np.int64)
    high = np.minimum(np.ceil(middle).astype(np.int64), max(len(knots) - 1, 0))
    median = ((knots[low] + knots[high]) / 2).astype(np.float32)
    tokens = vocabulary.tokens
    entry = np.array([t.entry for t in tokens], np.int64)
    bins = np.array([t.bin for t in tokens], np.int64)
    is_value = np.array([t.token_class == TokenClass.VALUE for t in tokens])
    number = np.full(len(tokens), np.nan, np.float32)
    fused = np.flatnonzero((entry >= 0) & (bins >= 0))
    number[fused] = median[first_bin[entry[fused]] + bins[fused]]
    all_texts = sorted(vocabulary.text_index, key=vocabulary.text_index.__getitem__)
    answer = [
        None
        if t.bin > -2
        else (all_texts if t.entry < 0 else vocabulary.codes[t.entry].texts)[-2 - t.bin]
        for t in tokens
    ]
    silent = np.array([_is_silent(t, vocabulary.spec) for t in tokens])
    token_class = np.array([t.token_class for t in tokens], np.uint8)
    return _Columns(
        token_class=token_class,
        is_kept=~np.isin(token_class, _LEFT_OUT) & ~silent,
        concept=pa.array([_concept(t, vocabulary) for t in tokens], pa.string()),
        unit=pa.array(
            [(vocabulary.codes[t.entry].unit if t.entry >= 0 else None) or NO_UNIT for t in tokens],
            pa.string(),
        ),
        number=number,
        answer=pa.array(answer, pa.string()),
        entry=entry,
        value_bin=np.where(is_value, bins, -1),
        median=median,
        first_bin=first_bin,
        unknown_age=vocabulary.age_tokens[2],
    )


def _slices(shards: Iterable[Shard]) -> Iterator[tuple[Shard, int, int]]:
    """Ranges of whole subjects of about `_SLICE_TOKENS` tokens, each in one shard."""
    for shard in shards:
        begin, n = 0, len(shard.subject_id)
        while begin < n:
            limit = shard.offsets[begin] + _SLICE_TOKENS
            end = int(np.searchsorted(shard.offsets, limit, side="right")) - 1
            end = min(max(end, begin + 1), n)
            yield shard, begin, end
            begin = end


def _values(
    columns: _Columns, token: NDArray[np.int32], place: NDArray[np.int64]
) -> tuple[NDArray[np.float32], pa.Array]:
    """(number or NaN, answer or null) at the kept positions `place` of a slice's tokens."""
    number = columns.number[token[place]]
    after = np.minimum(place + 1, len(token) - 1)
    is_split = columns.token_class[token[after]] == TokenClass.VALUE
    bins = columns.value_bin[token[after]]
    binned = is_split & (bins >= 0)
    entry = columns.entry[token[place[binned]]]
    number[binned] = columns.median[columns.first_bin[entry] + bins[binned]]
    said = np.where(is_split, token[after], token[place])
    return number, columns.answer.take(pa.array(said))


def _make_table(
    columns: _Columns, shard: Shard, begin: int, end: int, count: dict[str, int]
) -> pa.Table:
    """The subjects begin .. end of a shard; adds to `count` what it holds and leaves out."""
    first, last = int(shard.offsets[begin]), int(shard.offsets[end])
    token = shard.token_id[first:last]
    owner = np.repeat(np.arange(end - begin), np.diff(shard.offsets[begin : end + 1]))
    is_visit = np.isin(columns.token_class[token], _VISIT_TYPES)  # a death has none
    n_visits = np.bincount(owner[is_visit], minlength=end - begin)
    is_ageless = np.zeros(end - begin, np.bool_)
    is_ageless[owner[token == columns.unknown_age]] = True
    is_told = (n_visits > 0) & ~is_ageless
    told = np.flatnonzero(is_told)
    place = np.flatnonzero(columns.is_kept[token] & is_told[owner])
    lengths = np.bincount(owner[place], minlength=end - begin)[told]
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    origin_us = shard.origin_us[begin:end][owner[place]]
    lists = _lists(columns, shard, place + first, origin_us, lengths)
    made: dict[str, Any] = {
        name: pa.ListArray.from_arrays(
            offsets, pa.array(values).cast(_element(name)), type=schema().field(name).type
        )
        for name, values in lists.items()
    }
    made["person_id"] = shard.subject_id[begin:end][told]
    made["num_of_visits"] = n_visits[told].astype(np.int64)
    made["num_of_concepts"] = lengths.astype(np.int64)
    count["subjects"] += len(told)
    count["tokens"] += len(place)
    count["without_visits"] += int((n_visits == 0).sum())
    count["age_unknown"] += int((is_ageless & (n_visits > 0)).sum())
    return pa.table([made[name] for name in schema().names], schema=schema())


def _element(name: str) -> pa.DataType:
    return schema().field(name).type.value_type


def _lists(
    columns: _Columns,
    shard: Shard,
    place: NDArray[np.int64],
    origin_us: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> dict[str, Any]:
    """The list columns, flat, at positions `place` of a shard; `lengths` are the subjects'."""
    token = shard.token_id[place]
    number, answer = _values(columns, shard.token_id, place)
    is_number = np.isfinite(number)
    minutes = shard.time_min[place].astype(np.int64)
    ids = pa.array(token)
    return {
        "concept_ids": columns.concept.take(ids),
        "ages": np.minimum(minutes // DAY_MIN / YEAR_DAYS, TOP_AGE).astype(np.int32),
        "epoch_times": origin_us // US_PER_S + minutes * 60,
        "concept_value_masks": is_number | answer.is_valid().to_numpy(zero_copy_only=False),
        "number_as_values": np.where(is_number, number, np.float32(0)),
        "concept_as_values": answer.fill_null(NO_ANSWER),
        "is_numeric_types": is_number,
        "units": columns.unit.take(ids),
        "record_ranks": _ranks(columns.token_class[token], shard.event_min[place], lengths),
    }


def _ranks(
    token_class: NDArray[np.uint8], event_min: NDArray[np.int32], lengths: NDArray[np.int64]
) -> NDArray[np.int64]:
    """1, 2, ... within each subject; codes of one moment share theirs (they may be shuffled)."""
    is_code = token_class == TokenClass.CODE
    is_next = np.ones(len(token_class), np.bool_)
    is_next[1:] = ~(is_code[1:] & is_code[:-1] & (event_min[1:] == event_min[:-1]))
    starts = np.cumsum(lengths) - lengths
    is_next[starts] = True
    rank = np.cumsum(is_next)
    within: NDArray[np.int64] = rank - np.repeat(rank[starts] - 1, lengths)
    return within


def export_cehrgpt(
    tokens: Path | str,
    out: Path | str,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Writes a token store as CEHR-GPT's patient sequences.

    Args:
        tokens: token store of preset cehr.
        out: a new or empty folder; made 0700.
        progress: called with (subjects done, subjects in all).

    Returns:
        The content of `export.json`: subjects and tokens by split, subjects left out by reason.

    Raises:
        ConfigError: another preset, the time scheme log, or a prompt that lacks a field.
        FormatError: not a token store, or a corrupt one.
        StateError: `out` has content.
    """
    store = TokenStore.open(tokens)
    tokenizer = Tokenizer.load(store.tokenizer_path)
    _check(tokenizer.spec, tokens)
    columns = _make_columns(tokenizer.vocabulary)
    total = sum(len(store.split(name)) for name in SPLITS)
    folder = files.make_output_folder(Path(out))
    counts: dict[str, dict[str, int]] = {}
    members: list[tuple[pa.ChunkedArray, str]] = []
    done = 0
    for name in SPLITS:
        counts[name] = {"subjects": 0, "tokens": 0, "without_visits": 0, "age_unknown": 0}
        target = folder / "patient_sequence" / FOLDERS[name]
        target.mkdir(parents=True, exist_ok=True)
        of_files = groupby(store.split(name).shards, attrgetter("path"))
        for number, (_, shards) in enumerate(of_files):
            path = target / f"{name}-{number:05d}.parquet"
            with (
                files.atomic_path(path) as temporary,
                pq.ParquetWriter(temporary, schema()) as sink,
            ):
                for shard, begin, end in _slices(shards):
                    table = _make_table(columns, shard, begin, end, counts[name])
                    sink.write_table(table)
                    members.append((table["person_id"], SPLIT_NAMES[name]))
                    done += end - begin
                    if progress is not None:
                        progress(done, total)
    _write_splits(folder, members)
    report = {"schema": 1, "to": "cehrgpt", "tokenizer": tokenizer.hash, "splits": counts}
    files.write_json(folder / MANIFEST, report)
    return report


def _write_splits(folder: Path, members: list[tuple[pa.ChunkedArray, str]]) -> None:
    people = [person for ids, _ in members for person in ids.chunks]
    names = [name for ids, name in members for _ in range(len(ids))]
    table = pa.table(
        {"person_id": pa.chunked_array(people, pa.int64()), "split": pa.array(names, pa.string())}
    )
    (folder / "patient_splits").mkdir(exist_ok=True)
    with files.atomic_path(folder / "patient_splits" / "0.parquet") as temporary:
        pq.write_table(table, temporary)
