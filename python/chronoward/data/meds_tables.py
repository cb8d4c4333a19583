"""What the codes and texts of a MEDS source say, by number: tables for `_core.MedsMending`."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chronoward._core import MedsMending
from chronoward.data.meds_rows import NONE, NULL_US, Numbering, Numberings
from chronoward.data.parquet_file import END_US, FIRST_US
from chronoward.data.records import NEGATIVE, NOT_DONE, POSITIVE, TEXT_LENGTH
from chronoward.data.visits import (
    EMERGENCY,
    EMERGENCY_CODES,
    INPATIENT,
    INPATIENT_CODES,
    OTHER,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chronoward.data.config import IngestConfig, VisitPattern

OTHER_KIND, BIRTH, DEATH, SEX, RACE, ETHNICITY = range(6)
CATEGORY, NUMBER, BOUND, NOT_DONE_KIND, POS_NEG, TOO_LONG = 0, 2, 3, 4, 5, 6
FIXED_TEXTS = ("POS", "NEG", "not_done", "order", "dispense", "administration", "stop")
# Times that are no date: before the year 1, and from the year 10,000 on.
_OUTSIDE_US = np.array([[NULL_US + 1, END_US], [FIRST_US, -NULL_US - 1]], np.int64)
HOUR_US, DAY_US = 3_600_000_000, 86_400_000_000
_FLOAT32_MAX = 3.4e38
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]{1,2})?")
_BOUND = re.compile(r"(<=|>=|<|>|≤|≥) *([-+]?[0-9]+(\.[0-9]*)?)")
_FIRST_PART = re.compile(r"^[^/]*/+")


def _rest(code: str) -> str:
    return _FIRST_PART.sub("", code)


def _kind(code: str) -> int:
    upper = code.upper()
    for name, kind in (("MEDS_BIRTH", BIRTH), ("MEDS_DEATH", DEATH)):
        if code == name or code.startswith(f"{name}//"):
            return kind
    for names, kind in ((("GENDER/", "SEX/"), SEX), (("RACE/",), RACE)):
        if upper.startswith(names):
            return kind
    return ETHNICITY if upper.startswith("ETHNICITY/") else OTHER_KIND


def _event_code(code: str, kind: int) -> str:
    """The code as the event table has it: prefixes of sex, race and ethnicity made one."""
    if kind == OTHER_KIND:
        return code
    rest = _rest(code)
    if kind == SEX:
        known = {"F": "F", "FEMALE": "F", "8532": "F", "M": "M", "MALE": "M", "8507": "M"}
        return f"Gender/{known.get(rest.upper(), 'U')}"
    return {
        BIRTH: "MEDS_BIRTH",
        DEATH: "MEDS_DEATH",
        RACE: f"Race/{rest}",
        ETHNICITY: f"Ethnicity/{rest}",
    }[kind]


def parse_text(text: str) -> tuple[int, float, str]:
    """(kind, number, category) of a text value."""
    if _NUMBER.fullmatch(text):
        value = float(text)
        if np.isfinite(value) and abs(value) <= _FLOAT32_MAX:
            return NUMBER, value, text
    if found := _BOUND.fullmatch(text):
        return BOUND, float(found.group(2)), text
    upper = text.upper()
    if upper in NOT_DONE:
        return NOT_DONE_KIND, 0.0, "not_done"
    if upper in POSITIVE or upper in NEGATIVE:
        return POS_NEG, 0.0, "POS" if upper in POSITIVE else "NEG"
    return (TOO_LONG if len(text) > TEXT_LENGTH else CATEGORY), 0.0, text


def parse_texts(texts: Numbering) -> list[tuple[int, float, int]]:
    """(kind, number, number of the category) of each text; `texts` grows by the categories."""
    parsed = [parse_text(text) for text in list(texts.texts)]
    return [(kind, number, texts.of(category)) for kind, number, category in parsed]


def text_tables(said: list[tuple[int, float, int]], n_texts: int) -> dict[str, NDArray[Any]]:
    """What texts say, for the core: those after `said` (`parse_texts`) are words of ours."""
    said = [*said, *((CATEGORY, 0.0, number) for number in range(len(said), n_texts))]
    return {
        "text_kind": np.array([kind for kind, _, _ in said], np.uint8),
        "text_number": np.array([number for _, number, _ in said], np.float64),
        "text_category": np.array([category for _, _, category in said], np.int32),
    }


def _year_us(year: int) -> int:
    if year > 9999:
        return 2**62
    start = datetime(year, 1, 1, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return start.days * DAY_US


def _flags(values: pa.BooleanArray) -> NDArray[np.uint8]:
    return np.asarray(values.to_numpy(zero_copy_only=False), np.uint8)


def _named(codes: pa.StringArray, name: str | None) -> NDArray[np.uint8]:
    """Which codes are `name`, alone or with further parts."""
    if name is None:
        return np.zeros(len(codes), np.uint8)
    return _flags(pc.or_(pc.equal(codes, name), pc.starts_with(codes, f"{name}//")))


def make_mending(
    numberings: Numberings,
    events: Numbering,
    config: IngestConfig,
    *,
    future_us: int | None,
    inpatient_codes: set[str],
) -> tuple[MedsMending, bool]:
    """The mending of a source whose rows have been numbered.

    Args:
        numberings: of the rows; `texts` grows by the categories that are kept.
        events: numbering of the event codes, filled here.
        config: the dials.
        future_us: first microsecond after the extract date, None where that does not count.
        inpatient_codes: visit codes that the source's metadata calls inpatient.

    Returns:
        The mending, and whether a code of the source opens a visit.
    """
    codes = list(numberings.codes.texts)
    kinds = [_kind(code) for code in codes]
    event_code = [events.of(_event_code(c, k)) for c, k in zip(codes, kinds, strict=True)]
    said = parse_texts(numberings.texts)
    names = pa.array(codes, pa.string())
    has_parts = _flags(pc.match_substring(names, "//"))
    discharge = _discharge_codes(names, has_parts, config, events)
    patterns = [_pattern(pattern, names, events) for pattern in config.visit_patterns]
    stay, artificial = events.of("Visit/IP"), events.of("Visit/0")
    order = sorted(range(len(events.texts)), key=lambda i: events.texts[i].encode())
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    mending = MedsMending(
        code_kind=np.array(kinds, np.uint8),
        event_code=np.array(event_code, np.int32),
        is_visit_code=_flags(pc.starts_with(names, "Visit/")),
        is_discharge_code=_flags(pc.starts_with(names, "Discharge/")),
        code_rank=rank,
        **text_tables(said, len(numberings.texts.texts)),
        is_fixed_text=np.array([t in FIXED_TEXTS for t in numberings.texts.texts], np.uint8),
        visit_table=numberings.tables.of("visit_occurrence"),
        detail_table=numberings.tables.of("visit_detail"),
        no_table=numberings.tables.of(""),
    )
    mending.set_rules(
        sentinel_us=np.concatenate([sentinel_years_us(config), _OUTSIDE_US], axis=1),
        prenatal_us=config.prenatal_days * DAY_US if config.prenatal_policy == "keep" else 0,
        future_us=-(2**63) if future_us is None else future_us,
    )
    mending.set_visit_codes(
        discharge_code=discharge,
        is_bare=1 - has_parts,
        visit_class=np.array([visit_class(c, inpatient_codes) for c in events.texts], np.uint8),
        stay_code=stay,
        artificial_code=artificial,
        inpatient_us=config.inpatient_hours * HOUR_US,
        ed_link_us=config.ed_link_hours * HOUR_US,
        merges=config.merge_visits,
    )
    has_patterns = False
    for opens, closes, visit_code, pattern in patterns:
        if opens.any():
            has_patterns = True
            mending.add_pattern(
                opens=opens,
                closes=closes,
                visit_code=visit_code,
                closes_itself=pattern.end is None,
                is_detail=pattern.is_detail,
            )
    return mending, has_patterns


def sentinel_years_us(config: IngestConfig) -> NDArray[np.int64]:
    """First microsecond of each sentinel year, and of the year after it: int64 (2, n)."""
    years = sorted(config.sentinel_years)
    return np.array([[_year_us(y + k) for y in years] for k in (0, 1)], np.int64)


def visit_class(code: str, inpatient_codes: set[str]) -> int:
    """Class of a visit code: by the source's metadata, else by the code itself."""
    if code in inpatient_codes or code.upper() in INPATIENT_CODES:
        return INPATIENT
    return EMERGENCY if code.upper() in EMERGENCY_CODES else OTHER


def _discharge_codes(
    codes: pa.StringArray, has_parts: NDArray[np.uint8], config: IngestConfig, events: Numbering
) -> NDArray[np.int32]:
    """Of codes that close a visit and say more than that: the code of the discharge."""
    closing = np.any([_named(codes, p.end) for p in config.visit_patterns], axis=0) & has_parts
    discharge = np.full(len(codes), NONE, np.int32)
    for i in np.flatnonzero(closing).tolist():
        discharge[i] = events.of(f"Discharge/{_rest(codes[i].as_py())}")
    return discharge


def _pattern(
    pattern: VisitPattern, codes: pa.StringArray, events: Numbering
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int32], VisitPattern]:
    opens, closes = _named(codes, pattern.start), _named(codes, pattern.end)
    visit_code = np.full(len(codes), NONE, np.int32)
    for i in np.flatnonzero(opens).tolist():
        name = pattern.visit_type
        if name is None:
            code = codes[i].as_py()
            parts = code.split("//")
            name = f"Visit/{parts[1] if len(parts) > 1 and parts[1] else code}"
        visit_code[i] = events.of(name)
    return opens, closes, visit_code, pattern
