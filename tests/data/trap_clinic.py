"""A source with one trap a record: what every rule must say of it is written beside it.

`EXPECTED` maps (table, key) to (disposition, rule, changes); records that are not in it are kept
unchanged. Persons are apart, so that one trap cannot touch another.
"""

from __future__ import annotations

from .omop_rows import (
    Row,
    concept,
    condition,
    death,
    drug,
    measurement,
    period,
    person,
    visit,
)

C, M, V, D, P = (
    "condition_occurrence",
    "measurement",
    "visit_occurrence",
    "drug_exposure",
    "observation_period",
)
Outcome = tuple[str, str | None, list[str]]
EXPECTED: dict[tuple[str, str], Outcome] = {}
TABLES: dict[str, list[Row]] = {
    "person": [person(i) for i in range(1, 41)],
    V: [],
    C: [],
    M: [],
    D: [],
    P: [period(i, i, "1990-01-01", "2021-12-31") for i in range(1, 41) if i != 3],
    "death": [],
    "cdm_source": [{"cdm_source_name": "traps", "source_release_date": "2022-01-01"}],
    "concept": [
        concept(316139, "84114007"),
        concept(201826, "44054006"),
        concept(1001, "A", "RxNorm", concept_class_id="Ingredient", domain_id="Drug"),
        concept(1002, "B", "RxNorm", concept_class_id="Ingredient", domain_id="Drug"),
        concept(1003, "A10", "RxNorm", concept_class_id="Clinical Drug", domain_id="Drug"),
        concept(1004, "AB10", "RxNorm", concept_class_id="Clinical Drug", domain_id="Drug"),
    ],
    "concept_ancestor": [
        {"ancestor_concept_id": up, "descendant_concept_id": down, "min_levels_of_separation": n}
        for up, down, n in [(1001, 1003, 1), (1001, 1004, 1), (1002, 1004, 1), (1001, 1001, 0)]
    ],
    "note": [{"note_id": 5, "person_id": 1, "note_text": "a secret"}],
    "care_site": [{"care_site_id": 6, "care_site_name": "Ward B"}],
}


def _add(table: str, row: Row, *changes: str, gone: tuple[str, str] | None = None) -> None:
    TABLES[table].append(row)
    key = str(next(iter(row.values())))
    if gone is not None:
        EXPECTED[table, key] = (gone[0], gone[1], [])
    elif changes:
        EXPECTED[table, key] = ("kept", None, list(changes))


def _drop(rule: str, effect: str = "quarantined") -> tuple[str, str]:
    return (effect, rule)


EXPECTED["note", "5"] = ("dropped", "table_not_used", [])
EXPECTED["care_site", "6"] = ("dropped", "not_about_a_person", [])

# 1: a plain visit that most traps hang on; timed records inside it are left alone
_add(V, visit(100, "2020-01-05 10:00:00", "2020-01-05 12:00:00"))
_add(C, condition(1, "2020-01-05 10:30:00", 100))
_add(C, condition(2, "2020-01-05 10:30:00", 100), gone=_drop("exact_duplicate", "merged"))
_add(C, condition(3, "2020-01-05", 100), "date_only_in_visit")
_add(C, condition(4, "2020-02-30", 100), gone=_drop("unparsable_time"))
_add(C, condition(5, "", 100), gone=_drop("missing_time"))
_add(C, condition(6, "9999-12-31", 100), gone=_drop("sentinel_time"))
_add(C, condition(7, "0001-01-01", 100), gone=_drop("sentinel_time"))
_add(C, condition(8, "1900-01-01", 100), gone=_drop("sentinel_time"))
_add(C, condition(9, "1949-01-01", 100), gone=_drop("before_birth"))
_add(C, condition(10, "2022-05-01", 100), gone=_drop("future_date"))
_add(
    C,
    condition(11, "2020-01-05 10:40:00", 100, person_id=99),
    gone=_drop("unknown_person", "dropped"),
)
_add(
    C,
    condition(12, "2020-01-05 10:41:00", 100, person_id=None),
    gone=_drop("missing_subject", "dropped"),
)
_add(
    C,
    condition(13, "2020-01-05 10:42:00", 100, condition_end_date="2019-01-01"),
    "end_before_start",
)
_add(C, condition(14, "2020-01-05 10:43:00", 100, condition_end_date="9999-12-31"), "sentinel_end")
_add(C, condition(15, "2020-01-05 10:44:00", 100, condition_end_date="soon"), "unparsable_end")
_add(C, condition(16, "2020-01-05 10:45:00", 555), "relinked_by_date")
_add(C, condition(17, "2020-01-07 10:45:00", 100), "artificial_visit")
_add(C, condition(18, "2020-01-05 01:00:00", 100), "clamped_to_visit")
_add(C, condition(19, "2020-03-05", None), "artificial_visit", "date_only_day")
_add(
    C,
    condition(20, "2020-01-05 10:50:00", 100, condition_concept_id=0, condition_source_value="X1"),
    "unmapped",
)
_add(
    C,
    condition(21, "2020-01-05 10:51:00", 100, condition_concept_id=2000000007),
    "local_concept",
)
for key, target, rules in ((22, 201826, ()), (23, 316139, ("multiple_targets",))):
    _add(
        C,
        condition(
            key,
            "2020-01-05 10:52:00",
            100,
            condition_concept_id=target,
            condition_source_value="I13",
        ),
        *rules,
    )
_add(C, condition(24, "1949-12-01", None), "prenatal", "artificial_visit", "date_only_day")

# values
for key, value, rule in (
    (1, {"value_as_number": 5.5, "unit_source_value": "mg/dL"}, None),
    (2, {"value_as_number": "NaN"}, "value_not_finite"),
    (3, {"value_as_number": "-inf"}, "value_not_finite"),
    (4, {"value_as_number": "high"}, "value_unparsable"),
    (5, {"value_source_value": "7.5", "unit_source_value": "mg/dL"}, "value_from_text"),
    (6, {"value_source_value": "> 60", "unit_source_value": "mg/dL"}, "value_bounded"),
    (7, {"value_source_value": "neg."}, "value_category"),
    (8, {"value_source_value": "Refused"}, "value_not_done"),
    (9, {"value_source_value": "x" * 65}, "text_free"),
    (10, {"value_source_value": "yellowish"}, "text_rare"),
    (11, {"value_as_number": 5.5, "unit_source_value": "mmol/l"}, "unit_converted"),
    (
        12,
        {"value_as_number": 5, "operator_concept_id": 4171756, "unit_source_value": "mg/dL"},
        "value_bounded",
    ),
):
    row = measurement(key, f"2020-01-05 10:{key:02}:00", 100) | value
    _add(M, row, *([rule] if rule else []))
# a lab that is sometimes without its unit, and one whose values without unit mean another unit
for i in range(40):
    for code, key, scale in ((3016723, 100, 1.0), (3013682, 200, 10.0)):
        value = 1.0 + i % 10 / 10
        lone = i % 4 == 0
        row = measurement(key + i, f"2020-01-05 10:00:{i:02}", 100) | {
            "measurement_concept_id": code,
            "value_as_number": value * (scale if lone else 1.0),
            "unit_source_value": None if lone else "mg/dL",
        }
        _add(M, row, *(["unit_assumed" if scale == 1.0 else "unit_missing"] if lone else []))

# drugs
_add(D, drug(1, "2020-01-05 11:00:00", 1001, 100))
_add(D, drug(2, "2020-01-05 11:01:00", 1003, 100), "ingredient_rollup")
_add(D, drug(3, "2020-01-05 11:02:00", 1004, 100), "multi_ingredient")

# 2: a death of a day; what comes later is quarantined
TABLES["death"] += [death(2, "2020-06-01"), death(2, "2020-07-01")]
_add(C, condition(30, "2020-06-01 18:00:00", None, person_id=2), "artificial_visit")
_add(C, condition(31, "2020-06-02 00:30:00", None, person_id=2), gone=_drop("after_death"))
_add(
    V,
    visit(200, "2020-05-31 08:00:00", "2020-06-03 08:00:00", 9201, person_id=2),
    "visit_end_after_death",
)
EXPECTED[C, "30"] = ("kept", None, ["relinked_by_date"])
EXPECTED[P, "2"] = ("kept", None, ["period_clamped"])

# 3: no observation period; 4: overlapping and impossible ones
EXPECTED["person", "3"] = ("kept", None, ["observation_imputed"])
_add(P, period(104, 4, "2000-01-01", "2001-01-01"), gone=_drop("period_merged", "merged"))
_add(P, period(105, 4, "2001-01-01", "2000-01-01"), gone=_drop("period_invalid"))

# 5: births
TABLES["person"][4] |= {"month_of_birth": None}
TABLES["person"][5] |= {"year_of_birth": 1900}
EXPECTED["person", "5"] = ("kept", None, ["birth_imputed"])
EXPECTED["person", "6"] = ("kept", None, ["birth_unknown"])

# 7: visits of one class overlap; 8: emergency before a stay; 9: a day visit inside a stay
_add(V, visit(701, "2020-02-01 10:00:00", "2020-02-01 12:00:00", person_id=7))
_add(
    V,
    visit(702, "2020-02-01 11:00:00", "2020-02-01 13:00:00", person_id=7),
    gone=_drop("visit_merged", "merged"),
)
_add(C, condition(70, "2020-02-01 12:30:00", 702, person_id=7))
_add(
    V,
    visit(801, "2020-02-01 10:00:00", "2020-02-01 14:00:00", 9203, person_id=8),
    gone=_drop("ed_linked", "merged"),
)
_add(V, visit(802, "2020-02-02 13:00:00", "2020-02-05 13:00:00", 9201, person_id=8))
_add(V, visit(901, "2020-02-01 10:00:00", "2020-02-05 13:00:00", 9201, person_id=9))
_add(
    V,
    visit(902, "2020-02-03", "2020-02-03", person_id=9),
    gone=_drop("outpatient_in_stay", "merged"),
)
_add(C, condition(90, "2020-02-03 09:00:00", 902, person_id=9))
# 10: a billing diagnosis stamped with the admission; an admission diagnosis is known at once
_add(V, visit(1001, "2020-02-01 10:00:00", "2020-02-05 13:00:00", 9201, person_id=10))
billed = {"condition_type_concept_id": 32821, "person_id": 10}
_add(C, condition(100, "2020-02-01 10:00:00", 1001, **billed), "stamped_diagnosis")
_add(C, condition(101, "2020-02-01 10:01:00", 1001, condition_status_concept_id=32890, **billed))
# 11: no end; 12: an early end; 13: a long day visit; 14: a late record on the last date
_add(V, visit(1101, "2020-02-01 10:00:00", None, person_id=11), "missing_visit_end")
_add(C, condition(110, "2020-02-01 15:00:00", 1101, person_id=11))
_add(V, visit(1201, "2020-02-02 10:00:00", "2020-02-01 10:00:00", person_id=12), "end_before_start")
_add(
    V,
    visit(1301, "2020-02-01 10:00:00", "2020-02-02 11:00:00", person_id=13),
    "visit_inpatient_by_length",
)
_add(V, visit(1401, "2020-02-01 10:00:00", "2020-02-01 11:00:00", person_id=14), "visit_extended")
_add(C, condition(140, "2020-02-01 16:00:00", 1401, person_id=14))
# 15: visits of different classes overlap; 16: died at discharge
_add(V, visit(1501, "2020-02-01 10:00:00", "2020-02-05 11:00:00", 9201, person_id=15))
_add(
    V,
    visit(1502, "2020-02-05 10:00:00", "2020-02-05 18:00:00", person_id=15),
    "visit_overlap_clamped",
)
_add(
    V,
    visit(
        1601,
        "2020-02-01 10:00:00",
        "2020-02-05 11:00:00",
        9201,
        person_id=16,
        discharged_to_concept_id=4216643,
    ),
    "death_from_discharge",
)
EXPECTED[P, "16"] = ("kept", None, ["period_clamped"])
