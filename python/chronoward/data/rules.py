"""Every named rule that ingestion applies to a source record; the keys of the ingest report.

A record meets the *removing* rules in the order of this list and is removed by the first that
fits; a kept record may carry any number of *changing* rules. `report["rules"][rule]` counts
records, one for each (record, rule) in the ledger, so Σ kept + Σ removed = records of a table.

Words: a time is *date-only* when the source has no datetime, or one at 00:00:00 in a table and type
concept of which at least 20 % of the datetimes are at 00:00:00 (births and deaths: any at 00:00:00;
MEDS: only births and deaths). A visit is *timed* unless both its start and its end are date-only; a
date-only visit lasts from 00:00:00 of its first to 23:59:59 of its last day. Comparisons with a
date-only time compare dates.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, Self

Effect = Literal["dropped", "merged", "quarantined", "changed"]


class Rule(StrEnum):
    """A rule's name, what becomes of the record (`effect`) and its one-line `meaning`."""

    effect: Effect
    meaning: str

    def __new__(cls, name: str, effect: Effect, meaning: str) -> Self:
        member = str.__new__(cls, name)
        member._value_ = name
        member.effect = effect
        member.meaning = meaning
        return member

    @classmethod
    def named(cls, name: str) -> Rule:
        """The rule of a name in a report.

        Raises:
            KeyError: no such rule.
        """
        return {str(rule): rule for rule in cls}[name]

    @property
    def removes(self) -> bool:
        """Whether the record makes no event (or is absorbed by another)."""
        return self.effect != "changed"

    # ---- removing rules, in the order in which they are tried --------------------------------
    TABLE_NOT_USED = (
        "table_not_used",
        "dropped",
        "A record about a person in a table that is not read (eras, notes, costs, specimens).",
    )
    NOT_ABOUT_A_PERSON = (
        "not_about_a_person",
        "dropped",
        "A record in a table without persons (places, providers, definitions of cohorts).",
    )
    MISSING_SUBJECT = (
        "missing_subject",
        "dropped",
        "The subject's id is null, or no whole number within 64 bits.",
    )
    EXCLUDED_SUBJECT = "excluded_subject", "dropped", "The subject is in the exclusion list."
    UNKNOWN_PERSON = "unknown_person", "dropped", "The person is not in the person table."
    MISSING_CODE = "missing_code", "dropped", "A MEDS event without a code."
    EXACT_DUPLICATE = (
        "exact_duplicate",
        "merged",
        "Equal to another record of its table in every column that is read, but the primary key.",
    )
    UNPARSABLE_TIME = (
        "unparsable_time",
        "quarantined",
        "The start (or death) date is text that is no date, such as 2020-02-30, or lies outside "
        "of the years 1 to 9999.",
    )
    MISSING_TIME = "missing_time", "quarantined", "Neither a start date nor a start datetime."
    SENTINEL_TIME = (
        "sentinel_time",
        "quarantined",
        "The start (or death) lies in a sentinel year: 1, 1900 or 9999 (configurable), or, "
        "in MEDS, outside of the years 1 to 9999.",
    )
    BEFORE_BIRTH = (
        "before_birth",
        "quarantined",
        "Starts on a date before birth, outside what the prenatal policy keeps (300 days).",
    )
    FUTURE_DATE = (
        "future_date",
        "quarantined",
        "Starts after the extract date (config, else cdm_source.source_release_date); real "
        "calendars only.",
    )
    DEATH_DUPLICATE = (
        "death_duplicate",
        "merged",
        "A death record of a person with another one at the same time or earlier.",
    )
    BIRTH_DUPLICATE = "birth_duplicate", "merged", "A MEDS birth event later than another one."
    STATIC_DUPLICATE = (
        "static_duplicate",
        "merged",
        "A second sex or race of a MEDS subject; the one first in the alphabet stays.",
    )
    AFTER_DEATH = (
        "after_death",
        "quarantined",
        "Starts after the subject's death (a date-only death is at 23:59:59 of its day).",
    )
    PERIOD_INVALID = (
        "period_invalid",
        "quarantined",
        "An observation period without a start, that ends before it starts, or that has no day "
        "between birth and death.",
    )
    PERIOD_MERGED = (
        "period_merged",
        "merged",
        "An observation period that overlaps or touches (next day) an earlier one.",
    )
    UNMAPPED_DROPPED = (
        "unmapped_dropped",
        "dropped",
        "No standard concept, under concept_policy = standard.",
    )
    MULTIPLE_TARGETS_MERGED = (
        "multiple_targets_merged",
        "merged",
        "As multiple_targets, under concept_policy = source: one source code, one event.",
    )
    VISIT_MERGED = (
        "visit_merged",
        "merged",
        "A visit that overlaps an earlier one of its class (inpatient, emergency, other).",
    )
    ED_LINKED = (
        "ed_linked",
        "merged",
        "An emergency visit that ends at most 24 h before, or during, a stay: the stay starts with "
        "it, and it stays as a detail.",
    )
    OUTPATIENT_IN_STAY = (
        "outpatient_in_stay",
        "merged",
        "A visit of class other that lies inside a stay: its records belong to the stay.",
    )
    DETAIL_WITHOUT_VISIT = (
        "detail_without_visit",
        "dropped",
        "A visit detail that no visit of its person covers.",
    )
    DISCHARGE_NOT_USED = (
        "discharge_not_used",
        "dropped",
        "A MEDS discharge whose visit is not there, or left another way.",
    )

    # ---- changing rules: the record stays ----------------------------------------------------
    BIRTH_IMPUTED = (
        "birth_imputed",
        "changed",
        "A person with year of birth but without month or day: the first one is taken.",
    )
    BIRTH_UNKNOWN = (
        "birth_unknown",
        "changed",
        "A person without year of birth, or with a sentinel year.",
    )
    OBSERVATION_IMPUTED = (
        "observation_imputed",
        "changed",
        "A person without a valid observation period in a source that has the table.",
    )
    PERIOD_CLAMPED = (
        "period_clamped",
        "changed",
        "An observation period cut at the date of birth or of death.",
    )
    PRENATAL = (
        "prenatal",
        "changed",
        "Starts on a date 1 to 300 days before birth, under prenatal_policy = keep.",
    )
    END_BEFORE_START = "end_before_start", "changed", "Ends before it starts: the end is nulled."
    SENTINEL_END = "sentinel_end", "changed", "Ends in a sentinel year: the end is nulled."
    UNPARSABLE_END = "unparsable_end", "changed", "The end is text that is no date: nulled."
    MISSING_VISIT_END = (
        "missing_visit_end",
        "changed",
        "A visit without an end in the source: its last linked record ends it.",
    )
    MISSING_DETAIL_END = (
        "missing_detail_end",
        "changed",
        "A visit detail without an end in the source: its visit's end.",
    )
    VISIT_END_AFTER_DEATH = (
        "visit_end_after_death",
        "changed",
        "A visit that ends after the death: cut at the death.",
    )
    VISIT_INPATIENT_BY_LENGTH = (
        "visit_inpatient_by_length",
        "changed",
        "A visit outside the inpatient set that lasts at least 24 h: becomes Visit/IP.",
    )
    VISIT_EXTENDED = (
        "visit_extended",
        "changed",
        "A visit with linked records later on the date of its end: extended to the last of them.",
    )
    VISIT_OVERLAP_CLAMPED = (
        "visit_overlap_clamped",
        "changed",
        "A visit that overlaps an earlier one of another class: starts at the earlier one's end.",
    )
    DEATH_DATE_ONLY = "death_date_only", "changed", "A date-only death: 23:59:59 of its day."
    DEATH_FROM_DISCHARGE = (
        "death_from_discharge",
        "changed",
        "A visit whose discharge says died, earlier than any death record of its person.",
    )
    RELINKED_BY_DATE = (
        "relinked_by_date",
        "changed",
        "No visit link, one to no known visit, or to a visit elsewhere in time; a visit covers it.",
    )
    ARTIFICIAL_VISIT = (
        "artificial_visit",
        "changed",
        "As relinked_by_date, but no visit covers it: gets an artificial visit.",
    )
    CLAMPED_TO_VISIT = (
        "clamped_to_visit",
        "changed",
        "Up to 24 h before the start of its linked visit: available at the visit's start.",
    )
    STAMPED_DIAGNOSIS = (
        "stamped_diagnosis",
        "changed",
        "A billing diagnosis (or DRG) dated before its visit's end: available at that end.",
    )
    DATE_ONLY_IN_VISIT = (
        "date_only_in_visit",
        "changed",
        "A date-only record of a timed visit: available at the visit's end.",
    )
    DATE_ONLY_DAY = (
        "date_only_day",
        "changed",
        "Any other date-only record: available at 23:59:59 of its day.",
    )
    UNMAPPED = (
        "unmapped",
        "changed",
        "No standard concept (0 or null): kept under its source concept or source value.",
    )
    LOCAL_CONCEPT = (
        "local_concept",
        "changed",
        "Kept under a concept id above 2,000,000,000, which means nothing at another site.",
    )
    MULTIPLE_TARGETS = (
        "multiple_targets",
        "changed",
        "Shares person, start, visit, type, source code and value with a record of a smaller "
        "standard concept id: one source code with several targets.",
    )
    INGREDIENT_ROLLUP = (
        "ingredient_rollup",
        "changed",
        "A drug that is not an ingredient itself, replaced by its one ingredient.",
    )
    MULTI_INGREDIENT = (
        "multi_ingredient",
        "changed",
        "A drug with several ingredients: one event each.",
    )
    VALUE_NOT_FINITE = "value_not_finite", "changed", "NaN or infinity: the value is nulled."
    VALUE_UNPARSABLE = (
        "value_unparsable",
        "changed",
        "value_as_number is text that is no number: nulled.",
    )
    VALUE_FROM_TEXT = (
        "value_from_text",
        "changed",
        "No value_as_number, and the source's value is a plain number: taken.",
    )
    VALUE_BOUNDED = (
        "value_bounded",
        "changed",
        "A value known as a bound (`<5`, `>60`, or an operator concept): the bound is taken.",
    )
    VALUE_CATEGORY = "value_category", "changed", "POS, NEG and their spellings, as categories."
    VALUE_NOT_DONE = (
        "value_not_done",
        "changed",
        "Refused, hemolyzed, cancelled and the like: category not_done.",
    )
    TEXT_RARE = (
        "text_rare",
        "changed",
        "A text value outside its code's top k, or of fewer than 11 subjects: nulled.",
    )
    TEXT_FREE = "text_free", "changed", "A text value longer than 64 characters: nulled."
    UNIT_CONVERTED = (
        "unit_converted",
        "changed",
        "A value in a variant unit of its quantity, converted by the table of units.",
    )
    UNIT_ASSUMED = (
        "unit_assumed",
        "changed",
        "A number without unit whose code's such values agree with its dominant unit's quantiles.",
    )
    UNIT_MISSING = (
        "unit_missing",
        "changed",
        "As unit_assumed, but the quantiles disagree: stays without unit, a code of its own.",
    )
    METADATA_NULLED = (
        "metadata_nulled",
        "changed",
        "A row of a MEDS source's metadata/codes.parquet with a value in a column of a type that "
        "cannot be read: the value is nulled.",
    )


REMOVING: tuple[Rule, ...] = tuple(rule for rule in Rule if rule.removes)
CHANGING: tuple[Rule, ...] = tuple(rule for rule in Rule if not rule.removes)
