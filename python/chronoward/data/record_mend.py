"""Clinical records made into events: the core sees each subject twice, SQL sees none of them.

First pass: when each visit's records end, and counts of units and texts. Between, SQL mends the
visits. Last pass: links, availability, values, order, facts and the fate of every record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from chronoward._core import OmopMending
from chronoward.ahead import side_by_side
from chronoward.data.concepts import LOCAL_CONCEPT
from chronoward.data.events import regrouped
from chronoward.data.links import ARTIFICIAL_CODE, drug_type
from chronoward.data.meds_mend import SortedTexts, event_table
from chronoward.data.meds_rows import NONE, NULL_US, Numbering
from chronoward.data.meds_tables import DAY_US, parse_texts, sentinel_years_us, text_tables
from chronoward.data.omop_tables import TABLES, table_number
from chronoward.data.record_ledger import RecordFates, text_key_orders
from chronoward.data.record_numbers import as_flags, as_us
from chronoward.data.records import BOUND_OPERATORS, NEGATIVE_CONCEPTS, POSITIVE_CONCEPTS
from chronoward.data.value_rules import ValueRules

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from chronoward.data.config import IngestConfig
    from chronoward.data.record_read import RecordReader
    from chronoward.data.record_spool import RecordRows
    from chronoward.data.workspace import Workspace

    Columns = dict[str, NDArray[Any]]
    Ints = NDArray[np.int64]

_POSITIVE, _NEGATIVE, _BOUND, _BILLING, _ADMISSION, _DRG = 1, 2, 4, 8, 16, 32
_FIXED_TEXTS = ("POS", "NEG", "not_done")
_DRUG_TEXTS = ("order", "dispense", "administration", "stop")
_NO_CODE = "OMOP/0"


class RecordMender:
    """Mends the records that a reader has read.

    Args:
        work: holds `subject`, `visit_lived`, `concept_dim` and `ingredient`.
        reader: has read all tables.
        config: the dials.
        future_us: first microsecond after the extract date, None where that does not count.
        scratch: folder for the fates of records.
        threads: that take pieces side by side; the result does not depend on them.
    """

    def __init__(
        self,
        work: Workspace,
        reader: RecordReader,
        config: IngestConfig,
        *,
        future_us: int | None,
        scratch: Path,
        threads: int,
    ) -> None:
        self._work, self._reader, self._config = work, reader, config
        self._threads = threads
        found = work.table(
            "SELECT subject_id, birth, death FROM subject WHERE gone = 0 ORDER BY subject_id"
        ).combine_chunks()
        self._subject_id = reader.subjects
        self._birth, self._death = (_us(found[name]) for name in ("birth", "death"))
        self.codes = Numbering()
        """Codes of events, by number."""
        self.fates = RecordFates(reader, scratch)
        self._orders = text_key_orders(work, reader, self.fates)
        self._firsts = np.array([table.first for table in reader.tables], np.int64)
        self._table_numbers = np.array([table_number(t.name) for t in reader.tables], np.uint16)
        rows = work.rows("SELECT concept_id, code, known_code, vocabulary_id FROM concept_dim")
        self._code_of = {row[0]: row[1] for row in rows}
        self._known_code = {row[0]: row[2] for row in rows if row[2] is not None}
        self._drgs = {row[0] for row in rows if row[3] in config.drg_vocabularies}
        self._make_tables(future_us)

    def _make_tables(self, future_us: int | None) -> None:
        """What the numbers of records stand for, for the core."""
        config = self._config
        part_offsets, part_id = self._parts()  # may add concepts
        values = self._reader.numberings.ids.values()
        texts, fixed = self._text_tables(values)
        is_date_type = np.zeros((len(TABLES), len(values) + 1), np.uint8)
        for table, kind in self._reader.date_types():
            is_date_type[table, kind + 1] = 1
        self._mending = OmopMending(
            {
                **texts,
                **self._code_tables(values, part_id),
                "id_value": np.array(values, np.int64),
                "id_flags": self._id_flags(values),
                "part_offsets": part_offsets,
                "part_id": np.array(part_id, np.int32),
                "is_date_type": is_date_type.ravel(),
            },
            no_code=self.codes.of(_NO_CODE),
            artificial_code=self.codes.of(ARTIFICIAL_CODE),
            drug_table=table_number("drug_exposure"),
            condition_table=table_number("condition_occurrence"),
            visit_table=table_number("visit_occurrence"),
        )
        self._mending.set_texts(positive=fixed[0], negative=fixed[1], stop=self._drug_text["stop"])
        self._mending.set_codes(np.zeros(len(self.codes.texts), np.int32))
        self._mending.set_rules(
            sentinel_us=sentinel_years_us(config),
            prenatal_us=config.prenatal_days * DAY_US if config.prenatal_policy == "keep" else 0,
            future_us=NULL_US if future_us is None else future_us,
            local_concept=LOCAL_CONCEPT,
            uses_source_concept=config.concept_policy == "source",
            drops_unmapped=config.concept_policy == "standard",
            has_drug_stop=config.drug_stop,
        )

    def _text_tables(self, values: list[int]) -> tuple[Columns, list[int]]:
        """What texts say, and the texts that concepts are as values; numbers of words of ours."""
        texts = Numbering()
        for text in self._reader.numberings.texts.texts():
            texts.of(text)
        id_text = np.full(len(values), NONE, np.int32)
        said = parse_texts(texts)
        fixed = [texts.of(text) for text in _FIXED_TEXTS]
        for number in self._reader.census.values():
            if values[number] > 0:
                id_text[number] = texts.of(self._code_of[values[number]])
        # words that a source may write as well have numbers of their own
        n = len(texts.texts)
        self._texts = [*texts.texts, *_DRUG_TEXTS]
        self._drug_text = {text: n + k for k, text in enumerate(_DRUG_TEXTS)}
        self._is_fixed = np.zeros(len(self._texts), np.uint8)
        self._is_fixed[[*fixed, *self._drug_text.values()]] = 1
        tables: Columns = {
            **text_tables(said, len(self._texts)),
            "id_text": id_text,
            "is_fixed_text": self._is_fixed,
        }
        return tables, fixed

    def _code_tables(self, values: list[int], parts: list[int]) -> Columns:
        """Codes of events by concept and by source value."""
        self._id_code = np.full(len(values), self.codes.of(_NO_CODE), np.int32)
        for number in sorted({*self._reader.census.names(), *parts}):
            self._id_code[number] = self.codes.of(self._code_of[values[number]])
        source_values = self._reader.numberings.source_values.texts()
        source_code = np.full(len(source_values), NONE, np.int32)
        for number in self._reader.census.source_codes():
            source_code[number] = self.codes.of(f"Source/{source_values[number]}")
        return {"id_code": self._id_code, "source_code": source_code}

    def _id_flags(self, values: list[int]) -> NDArray[np.uint8]:
        flags = np.zeros(len(values), np.uint8)
        place = {value: number for number, value in enumerate(values)}
        meanings = (
            (_POSITIVE, POSITIVE_CONCEPTS),
            (_NEGATIVE, NEGATIVE_CONCEPTS),
            (_BOUND, BOUND_OPERATORS),
            (_BILLING, self._config.billing_types),
            (_ADMISSION, self._config.admission_statuses),
            (_DRG, self._drgs),
        )
        for flag, concepts in meanings:
            for concept in concepts:
                if concept in place:
                    flags[place[concept]] |= flag
        return flags

    def _parts(self) -> tuple[NDArray[np.int64], list[int]]:
        """Ingredients of drugs by concept number: offsets, and concept numbers."""
        ids = self._reader.numberings.ids
        of_drug: dict[int, list[int]] = {}
        for drug, ingredient in self._work.rows("SELECT drug, ingredient FROM ingredient"):
            of_drug.setdefault(drug, []).append(ids.of(ingredient))
        parts, offsets = list[int](), [0]
        for value in ids.values():
            parts += sorted(of_drug.get(value, []))
            offsets.append(len(parts))
        return np.array(offsets, np.int64), parts

    def _given(self, *, last: bool = False) -> Iterator[tuple[RecordRows, dict[str, Any]]]:
        """Records with their subjects, as the core takes them; `last`: for the last time, when
        events are made of them and their order counts."""
        for part in self._reader.spool.parts(last=last):
            table = self._tables_of(part.place)
            rows = {**part.columns, "table": self._table_numbers[table]}
            if last:
                rows["order"] = self._order(part.place, table)
            who = slice(part.begin, part.end)
            subjects = {
                "subject_id": self._subject_id[who],
                "birth": self._birth[who],
                "death": self._death[who],
                "offsets": part.offsets,
            }
            yield part, {"subjects": subjects, "rows": rows}

    def _order(self, place: Ints | slice, table: Ints) -> Ints:
        """Of records: their places by key among those of their table, which decide on copies."""
        order = self.fates.keys(place)
        for number, ranks in self._orders.items():
            mine, first = table == number, self._firsts[number]
            if isinstance(place, slice):
                place = np.arange(place.start, place.stop)
            order[mine] = ranks[place[mine] - first]
        return order

    def _tables_of(self, place: Ints | slice) -> Ints:
        """Of records by their place: places of their tables among those that were read."""
        if not isinstance(place, slice):
            return np.searchsorted(self._firsts, place, side="right") - 1
        ends = np.clip(np.append(self._firsts, place.stop), place.start, place.stop)
        return np.repeat(np.arange(len(self._firsts)), np.diff(ends))

    def survey(self) -> None:
        """First pass; makes `visit_extent` (ref, last_any, last_same_day)."""

        def surveyed(given: dict[str, Any]) -> pa.Table:
            ref = given.pop("ref")
            extents = self._mending.survey(**given)
            names = ("last_any", "last_same_day")
            return pa.table({"ref": ref, **{name: _timestamps(extents[name]) for name in names}})

        found = side_by_side(surveyed, self._staged(), self._threads)
        self._work.add_rows("visit_extent", pa.concat_tables(found))

    def _staged(self) -> Iterator[dict[str, Any]]:
        """Yields records with their subjects and staged visits, whose references are `ref`."""
        for part, given in self._given():
            lived, visits = self._rows_of(
                part,
                "SELECT subject_id, ref, start, finish, end_only FROM visit_lived WHERE gone = 0",
                "ref",
            )
            visits |= {
                "ref": _ints(lived["ref"]),
                "start": _us(lived["start"]),
                "finish": _us(lived["finish"]),
                "ends_as_date": as_flags(lived["end_only"].combine_chunks()),
            }
            yield {**given, "visits": visits, "ref": lived["ref"]}

    def _rows_of(self, part: RecordRows, sql: str, order: str) -> tuple[pa.Table, Columns]:
        """Rows of SQL (… WHERE …) for a part's subjects, and their offsets."""
        ids = self._subject_id[part.begin : part.end]
        low, high = (int(ids[0]), int(ids[-1])) if len(ids) else (0, -1)
        found = self._work.table(
            f"{sql} AND subject_id BETWEEN {low} AND {high} ORDER BY subject_id, {order}"
        )
        mine = _ints(found["subject_id"])
        offsets = np.append(np.searchsorted(mine, ids), len(mine)).astype(np.int64)
        return found, {"offsets": offsets}

    def decide_values(self, *, has_visits: bool) -> None:
        """Tells the core what becomes of units and texts, and the places of all texts."""
        for (name,) in self._work.rows("SELECT DISTINCT code FROM event ORDER BY code"):
            self.codes.of(name)
        pairs = self._reader.numberings.unit_pairs()
        values = ValueRules(pairs, self._known_code, self.codes.texts)
        values.decide(
            self._mending,
            (given for _, given in self._given()),
            n_tables=len(TABLES),
            texts=self._texts,
            config=self._config,
            threads=self._threads,
        )
        self.unit_names = values.units
        self._set_drug_texts()
        used = {self._texts[text] for _, _, text in values.kept_texts}
        used |= {self._texts[k] for k in np.flatnonzero(self._is_fixed).tolist()}
        texts = SortedTexts(sorted(used))
        place = {text: k for k, text in enumerate(texts.values.to_pylist())}
        codes, units = SortedTexts(self.codes.texts), SortedTexts(values.units.texts)
        tables = SortedTexts(list(TABLES))
        self.texts = {"table": tables, "code": codes, "unit": units, "text": texts}
        self._mending.set_codes(codes.rank)
        self._mending.set_values(
            **values.decided(),
            unit_rank=units.rank,
            text_rank=np.array([place.get(text, NONE) for text in self._texts], np.int32),
            female=codes.place("Gender/F"),
            male=codes.place("Gender/M"),
            artificial=codes.place(ARTIFICIAL_CODE),
            has_visits=has_visits,
        )

    def _set_drug_texts(self) -> None:
        """Drug records say whether they were ordered or given, where there are both."""
        ids = self._reader.numberings.ids.values()
        kinds = {number: drug_type(ids[number]) for number in self._mending.drug_types().tolist()}
        if len({kind for kind in kinds.values() if kind is not None}) < 2:
            return
        drug_text = np.full(len(self._id_code), NONE, np.int32)
        for number, kind in kinds.items():
            if kind is not None:
                drug_text[number] = self._drug_text[kind]
        self._mending.set_drug_texts(drug_text)

    def pieces(self) -> Iterator[pa.Table]:
        """Last pass: yields the event table in canonical order."""
        yield from regrouped(self._pieces())

    def _pieces(self) -> Iterator[pa.Table]:
        def mended(
            asked: tuple[RecordRows, dict[str, Any]],
        ) -> tuple[RecordRows, Columns, pa.Table]:
            part, given = asked
            piece = self._mending.piece(**given)
            return part, piece, event_table(piece, self.texts)

        asked = (
            (part, {**given, "visits": self._visits(part), "others": self._others(part)})
            for part, given in self._given(last=True)
        )
        for part, piece, table in side_by_side(mended, asked, self._threads):
            self.fates.note(part.place, piece["gone"], piece["changes"])
            yield table

    def _visits(self, part: RecordRows) -> Columns:
        found, visits = self._rows_of(
            part, "SELECT subject_id, start, finish, timed FROM visit WHERE true", "vid"
        )
        visits |= {
            "start": _us(found["start"]),
            "finish": _us(found["finish"]),
            "is_timed": as_flags(found["timed"].combine_chunks()),
        }
        mapped, of_ref = self._rows_of(
            part,
            """SELECT m.subject_id, m.ref, v.place FROM visit_map m
            JOIN visit_place v ON m.vid = v.vid WHERE true""",
            "ref",
        )
        return visits | {
            "ref_offsets": of_ref["offsets"],
            "ref": _ints(mapped["ref"]),
            "became": np.ascontiguousarray(mapped["place"].to_numpy(), np.int32),
        }

    def _others(self, part: RecordRows) -> Columns:
        found, others = self._rows_of(
            part,
            """SELECT subject_id, time, available, end_time, role, tbl, code,
              COALESCE(place, -1)::INTEGER AS visit
            FROM event e LEFT JOIN visit_place v ON e.vid = v.vid WHERE true""",
            "role, tbl, code, visit",
        )
        encoded = found["code"].combine_chunks().dictionary_encode()
        number = np.array([self.codes.of(c) for c in encoded.dictionary.to_pylist()], np.int32)
        return others | {
            **{name: _us(found[name]) for name in ("time", "available", "end_time")},
            "role": np.ascontiguousarray(found["role"].to_numpy(), np.uint8),
            "table": np.ascontiguousarray(found["tbl"].to_numpy(), np.uint16),
            "code": number[encoded.indices.to_numpy(zero_copy_only=False)],
            "visit": np.ascontiguousarray(found["visit"].to_numpy(), np.int32),
        }

    def facts(self) -> Columns:
        """Facts about the events of all pieces (`chronoward.data.meds_facts`)."""
        return self._mending.facts()

    def code_origins(self, facts: Columns) -> pa.Table:
        """(tbl, code, concept_id) of codes that concepts name, the smallest concept of each."""
        ids = self._reader.numberings.ids.values()
        least: dict[tuple[int, str], int] = {}
        named = (facts["named_table"].tolist(), facts["named_concept"].tolist())
        for table, number in zip(*named, strict=True):
            key = table, self.codes.texts[self._id_code[number]]
            least[key] = min(ids[number], least.get(key, ids[number]))
        return pa.table(
            {
                "tbl": pa.array([table for table, _ in least], pa.uint16()),
                "code": pa.array([code for _, code in least], pa.string()),
                "concept_id": pa.array(list(least.values()), pa.int64()),
            }
        )


def _us(column: pa.ChunkedArray) -> NDArray[np.int64]:
    return as_us(column.combine_chunks())


def _ints(column: pa.ChunkedArray) -> NDArray[np.int64]:
    return np.ascontiguousarray(column.to_numpy(), np.int64)


def _timestamps(us: NDArray[np.int64]) -> pa.Array:
    return pa.array(us, mask=us == NULL_US).cast(pa.timestamp("us"))
