"""Planted faults: every ingestion rule that a folder can hold, each a known number of times.

A row meets at most one fault, chosen by a draw of its own, and faults of content keep to rows that
say nothing about hidden states, or to what ingestion mends without loss. `counts` must equal the
ingest report's rules exactly; what happens by itself (roll-up of drugs, stamped diagnoses) is
counted too. Rule names are those of `chronoward.data.rules`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chronoward.data.rules import Rule
from chronoward.data.simulate.concepts import INGREDIENTS
from chronoward.data.simulate.draws import Purpose, fraction, integer_probability
from chronoward.data.simulate.events import EVENTS
from chronoward.data.simulate.omop import TYPE_BILLING, Rows
from chronoward.data.simulate.population import day_number
from chronoward.data.simulate.schedule import MINUTES_PER_DAY
from chronoward.data.simulate.tables import NO_TIME, NONE, Columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chronoward.data.simulate.clinic import Clinic

NOWHERE: Final = 2_000_000_000
"""An id of a visit or person that is not there."""
LOCAL_CONCEPT: Final = 2_000_000_001
_DEFAULT_RATE: Final = 0.004


@dataclass
class Plan:
    """What is planted so far, and the means to plant more."""

    clinic: Clinic
    tables: dict[str, Rows]
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, rule: Rule, n: int) -> None:
        """Counts a rule."""
        if n:
            self.counts[rule.value] += int(n)

    def pick(
        self, stream: int, n: int, wishes: list[tuple[str, NDArray[np.bool_], float]]
    ) -> dict[str, NDArray[np.int64]]:
        """Chooses rows for faults, no row for two of them.

        Args:
            stream: a number a call, so that draws differ.
            n: rows of the table.
            wishes: (name, eligible rows, share of the rows).
        """
        rows = np.arange(n, dtype=np.int64)
        drawn = fraction(self.clinic.draws.words(Purpose.TRAP, rows, 1, item=stream)[0])
        ratio, low = self.clinic.config.records.trap_ratio, 0
        chosen = {}
        for name, eligible, share in wishes:
            high = low + int(integer_probability(share * ratio))
            chosen[name] = np.flatnonzero((drawn >= low) & (drawn < high) & eligible)
            low = high
        return chosen

    def copy(self, table: str, rows: NDArray[np.int64], changed: Columns) -> None:
        """Appends copies of rows under new keys, with some columns changed."""
        if not len(rows):
            return
        base = self.tables[table]
        columns: Columns = {}
        for name, value in base.columns.items():
            if isinstance(value, pa.Array):
                columns[name] = value.take(pa.array(rows))
            elif isinstance(value, np.ndarray):
                columns[name] = value[rows]
            else:
                columns[name] = value
        key = next(iter(base.columns))
        if table != "death":
            taken = base.n + sum(n for n, _ in base.extra)
            columns[key] = taken + 1 + np.arange(len(rows))
        base.extra.append((len(rows), columns | changed))

    def set(self, table: str, column: str, rows: NDArray[np.int64], value: Any) -> None:
        """Overwrites a column at some rows; text goes into text columns."""
        columns = self.tables[table].columns
        old = columns.get(column)
        if isinstance(old, np.ndarray):
            old = old.copy()
            old[rows] = value
            columns[column] = old
            return
        n = self.tables[table].n
        if not isinstance(old, pa.Array):
            old = pa.nulls(n, pa.string()) if old is None else pa.repeat(old, n)
        mask = np.zeros(n, dtype=np.bool_)
        mask[rows] = True
        values = pa.array([value] * len(rows) if isinstance(value, str | None) else value)
        columns[column] = pc.replace_with_mask(old, pa.array(mask), values.cast(old.type))


@dataclass(frozen=True, eq=False)
class RecordFacts:
    """Facts of a clinical table's rows, [n]: subject, its visit's start and end, what it is."""

    subject: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    place: NDArray[np.str_]
    concept: NDArray[np.int64]
    death: NDArray[np.int64]


def facts_of(plan: Plan, table: str) -> RecordFacts:
    """Looks up the facts of a table's rows."""
    clinic = plan.clinic
    visit = plan.tables[table].visit
    subject = clinic.course.subject[visit]
    return RecordFacts(
        subject=subject,
        start=clinic.visits.start[visit],
        end=clinic.visits.end[visit],
        place=np.array([event.place for event in EVENTS])[clinic.course.event[visit]],
        concept=plan.tables[table].concept,
        death=clinic.observation.death[subject],
    )


_DATES: Final = {
    "condition_occurrence": "condition_start",
    "drug_exposure": "drug_exposure_start",
    "procedure_occurrence": "procedure",
    "measurement": "measurement",
    "observation": "observation",
    "device_exposure": "device_exposure_start",
}


def _moved(table: str, minute: NDArray[np.int64]) -> Columns:
    prefix = _DATES[table]
    none = minute == NO_TIME
    return {
        f"{prefix}_date": np.where(none, NO_TIME, minute // MINUTES_PER_DAY),
        f"{prefix}_datetime": minute,
    }


def plant_links_and_times(plan: Plan) -> None:
    """Lost links, date-only records, duplicates, and records that cannot be: all tables."""
    for stream, table in enumerate(_DATES):
        facts = facts_of(plan, table)
        n = plan.tables[table].n
        routine = facts.place == "routine"
        rate = _DEFAULT_RATE
        names = ("null_link", "bad_link", "date_only", "early", "copy", "unknown", "nobody")
        wishes = [(name, routine, rate) for name in names]
        wishes += [(name, routine, rate / 4) for name in ("missing", "sentinel", "before", "late")]
        extract = day_number(plan.clinic.config.calendar.end) * MINUTES_PER_DAY
        gone_by = facts.death + 10 * MINUTES_PER_DAY
        wishes.append(("after", routine & (facts.death >= 0) & (gone_by < extract), rate))
        at = plan.pick(stream, n, wishes)
        plan.set(table, "visit_occurrence_id", at["null_link"], NONE)
        plan.set(table, "visit_occurrence_id", at["bad_link"], NOWHERE)
        plan.add(Rule.RELINKED_BY_DATE, len(at["null_link"]) + len(at["bad_link"]))
        plan.set(table, f"{_DATES[table]}_datetime", at["date_only"], NO_TIME)
        plan.add(Rule.DATE_ONLY_IN_VISIT, len(at["date_only"]))
        plan.set(table, f"{_DATES[table]}_datetime", at["early"], facts.start[at["early"]] - 25)
        plan.add(Rule.CLAMPED_TO_VISIT, len(at["early"]))
        _plant_impossible(plan, table, at, facts, extract)


def _plant_impossible(
    plan: Plan,
    table: str,
    at: dict[str, NDArray[np.int64]],
    facts: RecordFacts,
    extract: int,
) -> None:
    plan.copy(table, at["copy"], {})
    plan.add(Rule.EXACT_DUPLICATE, len(at["copy"]))
    plan.copy(table, at["unknown"], {"person_id": np.full(len(at["unknown"]), NOWHERE)})
    plan.add(Rule.UNKNOWN_PERSON, len(at["unknown"]))
    plan.copy(table, at["nobody"], {"person_id": np.full(len(at["nobody"]), NONE)})
    plan.add(Rule.MISSING_SUBJECT, len(at["nobody"]))
    plan.copy(table, at["missing"], _moved(table, np.full(len(at["missing"]), NO_TIME)))
    plan.add(Rule.MISSING_TIME, len(at["missing"]))
    long_ago = np.full(len(at["sentinel"]), day_number("1900-01-01") * MINUTES_PER_DAY + 600)
    plan.copy(table, at["sentinel"], _moved(table, long_ago))
    plan.add(Rule.SENTINEL_TIME, len(at["sentinel"]))
    birth = plan.clinic.population.birth_day[facts.subject[at["before"]]]
    plan.copy(table, at["before"], _moved(table, (birth - 400) * MINUTES_PER_DAY + 600))
    plan.add(Rule.BEFORE_BIRTH, len(at["before"]))
    later = np.full(len(at["late"]), extract + 30 * MINUTES_PER_DAY + 600)
    plan.copy(table, at["late"], _moved(table, later))
    plan.add(Rule.FUTURE_DATE, len(at["late"]))
    plan.copy(table, at["after"], _moved(table, facts.death[at["after"]] + 5 * MINUTES_PER_DAY))
    plan.add(Rule.AFTER_DEATH, len(at["after"]))


def plant_codes(plan: Plan) -> None:
    """Unmapped and local codes, several targets, unreadable dates, bad ends; counts roll-ups."""
    clinic = plan.clinic
    table = "condition_occurrence"
    facts = facts_of(plan, table)
    noise = (facts.place == "clinic") & (facts.concept >= clinic.catalog.n_named)
    at = plan.pick(20, plan.tables[table].n, [(k, noise, 0.05) for k in ("none", "own", "two")])
    plan.set(table, "condition_concept_id", at["none"], 0)
    plan.add(Rule.UNMAPPED, len(at["none"]))
    plan.set(table, "condition_concept_id", at["own"], LOCAL_CONCEPT)
    plan.add(Rule.LOCAL_CONCEPT, len(at["own"]))
    larger = plan.tables[table].columns["condition_concept_id"][at["two"]] + 50_000_000
    plan.copy(table, at["two"], {"condition_concept_id": larger})
    plan.add(Rule.MULTIPLE_TARGETS, len(at["two"]))
    # Nothing is dated exactly at its visit's end, so all billing of stays is stamped.
    billed = plan.tables[table].columns["condition_type_concept_id"] == TYPE_BILLING
    plan.add(Rule.STAMPED_DIAGNOSIS, int(billed.sum()))

    table = "procedure_occurrence"
    facts = facts_of(plan, table)
    at = plan.pick(21, plan.tables[table].n, [("text", facts.place == "clinic", 0.02)])
    base = plan.tables[table]
    base.text = (*base.text, "procedure_date")
    n = len(at["text"])
    text = {"procedure_date": pa.array(["2016-02-30"] * n, pa.string())}
    plan.copy(table, at["text"], text | {"procedure_datetime": np.full(n, NO_TIME)})
    plan.add(Rule.UNPARSABLE_TIME, n)
    _plant_drug_ends(plan)


def _plant_drug_ends(plan: Plan) -> None:
    table = "drug_exposure"
    base = plan.tables[table]
    facts = facts_of(plan, table)
    catalog = plan.clinic.catalog
    for key, ingredients in INGREDIENTS.items():
        n = int((facts.concept == catalog.index[key]).sum())
        plan.add(Rule.INGREDIENT_ROLLUP if len(ingredients) == 1 else Rule.MULTI_INGREDIENT, n)
    # Copies of drugs are removed, or not drugs with a roll-up: `copy` keeps the concept, but the
    # removing rule takes the record first.
    routine = facts.place == "clinic"
    wishes = [("early", routine, 0.01), ("sentinel", routine, 0.01), ("text", routine, 0.01)]
    at = plan.pick(22, base.n, wishes)
    start = base.columns["drug_exposure_start_date"]
    column = "drug_exposure_end_date"
    plan.set(table, column, at["early"], start[at["early"]] - 3)
    plan.add(Rule.END_BEFORE_START, len(at["early"]))
    plan.set(table, column, at["sentinel"], day_number("9999-12-31"))
    plan.add(Rule.SENTINEL_END, len(at["sentinel"]))
    base.text = (*base.text, column)
    base.patches.append((column, at["text"], ["2015-02-30"] * len(at["text"])))
    plan.add(Rule.UNPARSABLE_END, len(at["text"]))


VALUE_FAULTS: Final = (
    ("not_finite", Rule.VALUE_NOT_FINITE, "NaN", None),
    ("unparsable", Rule.VALUE_UNPARSABLE, "see note", None),
    ("from_text", Rule.VALUE_FROM_TEXT, None, "4.2"),
    ("bound", Rule.VALUE_BOUNDED, None, "<3.5"),
    ("category", Rule.VALUE_CATEGORY, None, "POS"),
    ("not_done", Rule.VALUE_NOT_DONE, None, "hemolyzed"),
    ("rare", Rule.TEXT_RARE, None, "unlikely remark"),
    ("free", Rule.TEXT_FREE, None, "a long remark that nobody will ever read again, " * 2),
)


def plant_values(plan: Plan) -> None:
    """Numbers that are none, text, bounds, units: on labs that say nothing (clinic visits)."""
    clinic, table = plan.clinic, "measurement"
    base = plan.tables[table]
    facts = facts_of(plan, table)
    noise = (facts.place == "clinic") & (facts.concept == clinic.catalog.index["potassium"])
    value = base.columns["value_as_number"]
    middle = noise & (value >= 4.2) & (value <= 4.6)
    blood = (facts.place == "clinic") & (facts.concept == clinic.catalog.index["hemoglobin"])
    wishes = [(name, noise, 0.004) for name, *_ in VALUE_FAULTS]
    wishes += [("assumed", middle, 0.02), ("missing", blood, 0.01)]
    at = plan.pick(30, base.n, wishes)
    base.text = (*base.text, "value_as_number")
    for name, rule, number, source in VALUE_FAULTS:
        rows = at[name]
        if name == "rare":
            rows = rows[:10]  # under eleven subjects
        base.patches.append(("value_as_number", rows, [number] * len(rows)))
        plan.set(table, "value_source_value", rows, source)
        plan.add(rule, len(rows))
    plan.set(table, "unit_concept_id", at["assumed"], NONE)
    plan.set(table, "unit_source_value", at["assumed"], None)
    plan.add(Rule.UNIT_ASSUMED, len(at["assumed"]))
    plan.set(table, "unit_concept_id", at["missing"], NONE)
    plan.set(table, "unit_source_value", at["missing"], None)
    plan.set(table, "value_as_number", at["missing"], np.round(value[at["missing"]] * 10, 0))
    plan.add(Rule.UNIT_MISSING, len(at["missing"]))


def plant_unit_variant(plan: Plan) -> None:
    """Site B writes creatinine in µmol/L: the same quantity, so no information is lost."""
    table, clinic = "measurement", plan.clinic
    base = plan.tables[table]
    if not clinic.config.records.trap_ratio:
        return
    facts = facts_of(plan, table)
    site_b = clinic.population.site[facts.subject] == 1
    rows = np.flatnonzero(site_b & (facts.concept == clinic.catalog.index["creatinine"]))
    value = base.columns["value_as_number"][rows]
    plan.set(table, "value_as_number", rows, np.round(value * 88.4, 1))
    plan.set(table, "unit_concept_id", rows, 8749)
    plan.set(table, "unit_source_value", rows, "umol/L")
    plan.add(Rule.UNIT_CONVERTED, len(rows))
