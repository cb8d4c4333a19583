"""Random small MEDS sources with every fault that a row can have, as hypothesis strategies."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from chronoward.data import IngestConfig

if TYPE_CHECKING:
    from tests.twin.meds import MedsRow

COLUMNS = (
    *("subject_id", "time", "code", "numeric_value", "text_value", "unit", "end_time"),
    *("available_time", "visit_id", "table"),
)
OPTIONAL = COLUMNS[3:]
SUBJECTS = (-3, 5, 2**62)
PLAIN = ("LAB//1", "LAB//2", "LOINC//2345-7", "DX//I50", "Visit/IP")
FACTS = (
    *("MEDS_BIRTH", "MEDS_BIRTH//x", "MEDS_DEATH", "GENDER//F", "SEX/male", "gender/x"),
    *("RACE//WHITE", "race/black", "ETHNICITY//X"),
)
VISITS = (
    *("HOSPITAL_ADMISSION", "HOSPITAL_ADMISSION//URGENT//ER", "HOSPITAL_DISCHARGE"),
    *("HOSPITAL_DISCHARGE//HOME", "HOSPITAL_DISCHARGE//DIED", "ED_REGISTRATION", "ED_OUT"),
    *("ICU_ADMISSION//MICU", "ICU_DISCHARGE//MICU", "VISIT//OUT", "VISIT//IP", "VISIT"),
)
TEXTS = ("<5", ">= 7.5", "12", " refused ", "Positive", "neg", "red", "blue", "x" * 80, " ", None)
UNITS = ("mg/dL", "mmol/L", "mg/dl", "odd", None, None)
FIRST = datetime(2020, 1, 1)


@st.composite
def times(draw: st.DrawFn, *, odd: int = 5) -> datetime | None:
    """A time of the week that the sources are about, at times one that cannot be."""
    if draw(st.integers(0, 99)) < odd:
        years = (1, 1900, 9999, 2031, 2019, 1950)
        return draw(st.sampled_from([*(datetime(y, 6, 1, 5) for y in years), None]))
    return FIRST + timedelta(
        days=draw(st.integers(0, 4)), hours=draw(st.sampled_from([0, 0, 6, 10, 23]))
    )


_VALUE = {
    "numeric_value": st.sampled_from([5.5, 140.0, float("nan"), float("inf"), -0.0, *[None] * 5]),
    "text_value": st.sampled_from([*TEXTS, *[None] * 6]),
    "unit": st.sampled_from(UNITS),
}
_NOTHING = {name: st.none() for name in COLUMNS}
_TIMED = _NOTHING | {
    "subject_id": st.sampled_from(SUBJECTS),
    "time": times(),
    "available_time": st.one_of(st.none(), st.none(), times(odd=0)),
    "end_time": st.one_of(st.none(), st.none(), times()),
}


def _rows(most: int, **columns: st.SearchStrategy) -> st.SearchStrategy[list[MedsRow]]:
    return st.lists(st.fixed_dictionaries(_TIMED | columns), max_size=most)


_REFS = st.sampled_from([0, 1, 2, 9, None])
RECORDS = _rows(
    12,
    code=st.sampled_from([*PLAIN, None]),
    visit_id=_REFS,
    table=st.sampled_from(["measurement", " ", None, "visit_occurrence"]),
    **_VALUE,
)
FACT_ROWS = _rows(6, code=st.sampled_from(FACTS))
PATTERN_ROWS = _rows(14, code=st.sampled_from(VISITS), **_VALUE)
VISIT_ROWS = _rows(
    6,
    code=st.sampled_from(["Visit/IP", "Visit/ER", "Visit/OP", "Visit/OP"]),
    table=st.just("visit_occurrence"),
    end_time=times(),
    visit_id=_REFS,
)
DETAIL_ROWS = _rows(
    4,
    code=st.sampled_from(["Visit/ICU", "Discharge/HOME", "Discharge/DIED"]),
    table=st.sampled_from(["visit_detail", "visit_occurrence"]),
    end_time=times(),
    visit_id=_REFS,
)


@st.composite
def meds_databases(draw: st.DrawFn) -> list[MedsRow]:
    """Rows, a subject's together; columns that may be missing may be without a value."""
    kinds = [RECORDS, FACT_ROWS]
    kinds += draw(
        st.sampled_from(
            [[PATTERN_ROWS], [VISIT_ROWS, DETAIL_ROWS], [PATTERN_ROWS, VISIT_ROWS, DETAIL_ROWS], []]
        )
    )
    rows = [row for kind in kinds for row in draw(kind)]
    rows.append(dict.fromkeys(COLUMNS) | {"subject_id": 5, "time": FIRST, "code": "LAB//1"})
    rows += draw(st.lists(st.sampled_from(rows), max_size=4))
    if draw(st.booleans()):
        rows.append(dict.fromkeys(COLUMNS) | {"time": FIRST, "code": "LAB//1"})
    missing = draw(st.sets(st.sampled_from(OPTIONAL), max_size=3))
    order = draw(st.permutations(range(len(rows))))
    rows = [rows[i] | dict.fromkeys(missing) for i in order]
    return sorted(rows, key=lambda row: (row["subject_id"] is None, row["subject_id"] or 0))


@st.composite
def ingest_configs(draw: st.DrawFn) -> IngestConfig:
    """Dials, with categories that few subjects need to share."""
    return IngestConfig(
        prenatal_policy=draw(st.sampled_from(["keep", "quarantine"])),
        observation_end=draw(st.sampled_from(["last_event", "extract_date"])),
        extract_date=draw(st.sampled_from([None, None, "2020-01-03", "2020-01-20"])),
        calendar=draw(st.sampled_from(["auto", "auto", "real", "shifted"])),
        text_top_k=2,
        text_min_subjects=2,
        midnight_share=draw(st.sampled_from([0.2, 0.6])),
    )
