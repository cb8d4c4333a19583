"""Hand-written patients, one a case: what CEHR-GPT makes of them is in `expected.json`.

A case is one person of a small OMOP database. Persons are born on the day and month of their first
visit, so that completed years and CEHR-GPT's rounded-up years agree; `birth` says otherwise.
`RUNS` names the options under which the database is converted, on both sides; a case looks at its
person in one of them. Where we differ on purpose, `differences.py` has our tokens and the reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]

DAY = {"att_type": "day", "inpatient_att_type": "day"}
EVENTS = ["condition_occurrence", "procedure_occurrence", "drug_exposure"]


@dataclass(frozen=True)
class Run:
    """Options of one conversion: CEHR-GPT's flags, and what our tokenizer is asked for."""

    theirs: dict[str, Any]
    ours: dict[str, Any] = field(default_factory=dict)


def _scheme(name: str) -> Run:
    return Run({"att_type": name, "inpatient_att_type": name}, {"time_scheme": name})


RUNS: dict[str, Run] = {
    "day": Run(DAY),
    "hours": Run(DAY | {"include_inpatient_hour_token": True}, {"hour_tokens": True}),
    "week": _scheme("week"),
    "month": _scheme("month"),
    "cehr_bert": _scheme("cehr_bert"),
    "mix": _scheme("mix"),
    "death": Run(DAY | {"include_death": True}),
    "measurement": Run(DAY | {"domain_table_list": [*EVENTS, "measurement"]}),
}

OP, IP, ER = 9202, 9201, 9203
HOME, DIED = 8536, 4216643
HF, DM, AF, PAIN = 316139, 201826, 313217, 77670
XRAY, SURGERY = 4163872, 4000050
ASPIRIN, METFORMIN, STATIN = 1112807, 1503297, 1545958
ASPIRIN_PILL, COMBINATION = 19059056, 40164929
CREATININE, CULTURE = 3016723, 3023368


@dataclass
class Case:
    """One person and the claim that it tests."""

    run: str
    name: str
    birth: str | None = None
    gender: int = 8532
    race: int = 8527
    died: str | None = None
    visits: list[Row] = field(default_factory=list)
    events: list[Row] = field(default_factory=list)

    def visit(
        self, start: str, end: str | None = "same", concept: int = OP, discharge: int | None = None
    ) -> Case:
        """Adds a visit; "same" ends it at its start."""
        row = {"start": start, "end": start if end == "same" else end}
        self.visits.append(row | {"concept": concept, "discharge": discharge})
        return self

    def event(
        self,
        when: str,
        concept: int,
        table: str = "condition",
        visit: int | None = -1,
        value: float | None = None,
        answer: int | None = None,
        unit: int | None = None,
    ) -> Case:
        """Adds an event of the latest visit (-1), of a visit by its place, or of none (None)."""
        place = len(self.visits) - 1 if visit == -1 else visit
        row = {"when": when, "concept": concept, "table": table, "visit": place}
        self.events.append(row | {"value": value, "answer": answer, "unit": unit})
        return self

    @property
    def born(self) -> str:
        """Date of birth."""
        if self.birth is not None:
            return self.birth
        first = min(row["start"] for row in self.visits)
        return f"{int(first[:4]) - 60}{first[4:10]}"


CASES: list[Case] = []


def case(run: str, name: str, **about: Any) -> Case:
    """A new case of a run."""
    made = Case(run, name, **about)
    assert all((c.run, c.name) != (run, name) for c in CASES), name
    CASES.append(made)
    return made


def chain(run: str, name: str, *days: str) -> Case:
    """Outpatient visits on the given dates, one diagnosis each."""
    made = case(run, name)
    for i, day in enumerate(days):
        made.visit(f"{day} {9 + i:02}:00:00").event(f"{day} {9 + i:02}:00:00", HF)
    return made


# visits and gaps between them
chain("day", "one visit", "2010-03-05")
chain("day", "gap of a day", "2010-03-05", "2010-03-06")
chain("day", "gap of a week and of a month", "2010-03-05", "2010-03-12", "2010-04-11")
chain("day", "gap over a leap day", "2012-02-28", "2012-03-01")
chain("day", "gap of 1079 days is the last one counted", "2010-01-01", "2012-12-15")
chain("day", "gap of 1080 days is long term", "2010-01-01", "2012-12-16")
chain("day", "gap of fourteen years is long term", "2000-01-01", "2014-06-01")
chain("day", "year of the first visit, visits over new year", "2010-12-31", "2011-01-01")
for run, days in {
    "week": ("2010-01-06", "2010-01-07", "2010-01-14", "2010-02-13", "2013-01-27"),
    "month": ("2010-01-29", "2010-01-30", "2010-03-01", "2011-02-24", "2014-02-07"),
    "cehr_bert": ("2010-01-06", "2010-01-13", "2010-02-03", "2010-03-03", "2010-04-02"),
    "mix": ("2010-01-07", "2010-01-14", "2010-01-22", "2010-02-06", "2010-03-08"),
}.items():
    chain(run, "same day", "2010-01-01", "2010-01-01")
    chain(run, "short gaps", "2010-01-01", *days)
    chain(run, "gap of 359 days", "2010-01-01", "2010-12-26")
    chain(run, "gap of 360 days", "2010-01-01", "2010-12-27")
    chain(run, "gap of 361 days", "2010-01-01", "2010-12-28")
    chain(run, "gap of 1079 days", "2010-01-01", "2012-12-15")
    chain(run, "gap of 1080 days", "2010-01-01", "2012-12-16")
    stay = case(run, "days inside a stay").visit("2010-01-01 10:00:00", "2010-03-20 10:00:00", IP)
    for day in ("2010-01-01", "2010-01-02", "2010-01-10", "2010-02-20"):
        stay.event(f"{day} 11:00:00", HF)

two = case("day", "two visits on one day")
two.visit("2010-03-05 09:00:00").event("2010-03-05 09:10:00", HF)
two.visit("2010-03-05 14:00:00").event("2010-03-05 14:10:00", DM)
case("day", "an outpatient visit has no end of its own").visit(
    "2010-03-05 09:00:00", "2010-03-05 17:00:00"
).event("2010-03-05 09:10:00", HF).visit("2010-03-06 09:00:00").event("2010-03-06 09:10:00", HF)
case("day", "a visit without events is not told").visit("2010-03-05 09:00:00").event(
    "2010-03-05 09:00:00", HF
).visit("2010-04-05 09:00:00").visit("2010-05-05 09:00:00").event("2010-05-05 09:00:00", DM)
case("day", "unknown visit type").visit("2010-03-05 09:00:00", concept=0).event(
    "2010-03-05 09:10:00", HF
)
case("day", "an emergency visit has no inner time").visit(
    "2010-03-05 22:00:00", "2010-03-06 04:00:00", ER
).event("2010-03-05 22:10:00", PAIN).visit("2010-03-09 09:00:00").event("2010-03-09 09:00:00", HF)
case("day", "outpatient first when a stay starts at the same time").visit(
    "2010-03-05 09:00:00", "2010-03-05 15:00:00", IP, HOME
).event("2010-03-05 10:00:00", HF).visit("2010-03-05 09:00:00").event("2010-03-05 09:00:00", DM)
case("day", "visits of one start by their id").visit("2010-03-05 09:00:00").event(
    "2010-03-05 09:00:00", HF
).visit("2010-03-05 09:00:00", concept=581477).event("2010-03-05 09:00:00", DM)

# order inside a visit
case("day", "events of a day by their time").visit("2010-03-05 09:00:00").event(
    "2010-03-05 11:00:00", HF
).event("2010-03-05 10:00:00", PAIN).event("2010-03-05 09:30:00", AF)
case("day", "ties by concept id as text").visit("2010-03-05 09:00:00").event(
    "2010-03-05 09:10:00", PAIN
).event("2010-03-05 09:10:00", HF).event("2010-03-05 09:10:00", DM)
case("day", "ties over tables by concept id as text").visit("2010-03-05 09:00:00").event(
    "2010-03-05 09:10:00", HF
).event("2010-03-05 09:10:00", XRAY, "procedure").event(
    "2010-03-05 09:10:00", ASPIRIN, "drug"
).event("2010-03-05 09:10:00", PAIN)
case("day", "one diagnosis written twice is one").visit("2010-03-05 09:00:00").event(
    "2010-03-05 09:10:00", HF
).event("2010-03-05 09:10:00", HF)
case("day", "one diagnosis at two times is two").visit("2010-03-05 09:00:00").event(
    "2010-03-05 09:10:00", HF
).event("2010-03-05 09:20:00", HF)
case("day", "dates without times").visit("2010-03-05").event("2010-03-05", PAIN).event(
    "2010-03-05", HF
)
case("day", "unmapped concepts are not told").visit("2010-03-05 09:00:00").event(
    "2010-03-05 09:10:00", 0
).event("2010-03-05 09:10:00", HF)

# stays
case("day", "a stay of a day").visit("2010-03-05 09:00:00", "2010-03-05 20:00:00", IP, HOME).event(
    "2010-03-05 10:00:00", HF
).event("2010-03-05 12:00:00", XRAY, "procedure")
case("day", "days between groups of events").visit(
    "2010-03-05 09:00:00", "2010-03-09 12:00:00", IP, HOME
).event("2010-03-05 10:00:00", HF).event("2010-03-06 10:00:00", DM).event(
    "2010-03-06 15:00:00", AF
).event("2010-03-09 08:00:00", PAIN)
case("day", "days before the discharge").visit(
    "2010-03-05 09:00:00", "2010-03-11 12:00:00", IP, HOME
).event("2010-03-05 10:00:00", HF).event("2010-03-06 10:00:00", DM)
case("day", "ties inside a stay").visit(
    "2010-03-05 09:00:00", "2010-03-06 12:00:00", IP, HOME
).event("2010-03-06 10:00:00", PAIN).event("2010-03-06 10:00:00", HF).event(
    "2010-03-05 10:00:00", ASPIRIN, "drug"
).event("2010-03-05 10:00:00", AF)
case("day", "discharge not said").visit("2010-03-05 09:00:00", "2010-03-06 12:00:00", IP).event(
    "2010-03-05 10:00:00", HF
)
case("day", "discharge of concept 0").visit(
    "2010-03-05 09:00:00", "2010-03-06 12:00:00", IP, 0
).event("2010-03-05 10:00:00", HF)
case("day", "discharged dead").visit("2010-03-05 09:00:00", "2010-03-07 12:00:00", IP, DIED).event(
    "2010-03-05 10:00:00", HF
)
for concept in (262, 8971, 8920):
    case("day", f"visit type {concept} is a stay").visit(
        "2010-03-05 09:00:00", "2010-03-07 12:00:00", concept, HOME
    ).event("2010-03-05 10:00:00", HF).event("2010-03-07 10:00:00", DM)
case("day", "a long visit of another type is no stay").visit(
    "2010-03-05 09:00:00", "2010-03-08 12:00:00", 581385
).event("2010-03-05 10:00:00", DM).event("2010-03-06 10:00:00", HF)
case("day", "a stay without an end").visit("2010-03-05 09:00:00", None, IP).event(
    "2010-03-05 10:00:00", HF
).event("2010-03-07 10:00:00", DM).visit("2010-03-10 09:00:00").event("2010-03-10 09:00:00", HF)
case("day", "a stay of more than three years").visit(
    "2010-01-01 09:00:00", "2013-06-01 12:00:00", IP, HOME
).event("2010-01-01 10:00:00", HF)
case("day", "nothing on the first day of a stay").visit(
    "2010-03-05 09:00:00", "2010-03-09 12:00:00", IP, HOME
).event("2010-03-07 10:00:00", HF)
case("day", "an event hours before its stay").visit(
    "2010-03-05 09:00:00", "2010-03-07 12:00:00", IP, HOME
).event("2010-03-04 22:00:00", HF).event("2010-03-06 10:00:00", DM)
case("day", "an event hours after its stay").visit(
    "2010-03-05 09:00:00", "2010-03-06 12:00:00", IP, HOME
).event("2010-03-05 10:00:00", HF).event("2010-03-07 08:00:00", DM)
case("day", "gap from the end of a stay").visit(
    "2010-03-05 09:00:00", "2010-03-09 12:00:00", IP, HOME
).event("2010-03-05 10:00:00", HF).visit("2010-03-20 09:00:00").event("2010-03-20 09:00:00", DM)

# overlaps
case("day", "an outpatient visit on the day of a discharge").visit(
    "2010-03-05 09:00:00", "2010-03-09 12:00:00", IP, HOME
).event("2010-03-05 10:00:00", HF).visit("2010-03-09 15:00:00").event("2010-03-09 15:00:00", DM)
case("day", "an outpatient visit inside a stay").visit(
    "2010-03-05 09:00:00", "2010-03-09 12:00:00", IP, HOME
).event("2010-03-05 10:00:00", HF).visit("2010-03-07 09:00:00").event("2010-03-07 09:00:00", DM)
case("day", "gap after a visit inside a stay").visit(
    "2010-03-05 09:00:00", "2010-03-09 12:00:00", IP, HOME
).event("2010-03-05 10:00:00", HF).visit("2010-03-07 09:00:00").event(
    "2010-03-07 09:00:00", DM
).visit("2010-03-20 09:00:00").event("2010-03-20 09:00:00", HF)
case("day", "an emergency visit that ends in a stay").visit(
    "2010-03-05 06:00:00", "2010-03-05 09:00:00", ER
).event("2010-03-05 06:30:00", PAIN).visit(
    "2010-03-05 09:00:00", "2010-03-07 12:00:00", IP, HOME
).event("2010-03-05 10:00:00", HF)
case("day", "stays that overlap").visit(
    "2010-03-05 09:00:00", "2010-03-09 12:00:00", IP, HOME
).event("2010-03-05 10:00:00", HF).visit(
    "2010-03-08 09:00:00", "2010-03-12 12:00:00", IP, HOME
).event("2010-03-10 10:00:00", DM)

# problem lists and records without a visit
case("day", "a problem from years before its visit").visit("2010-03-05 09:00:00").event(
    "2010-03-05 09:10:00", HF
).event("2005-06-01 00:00:00", DM)
CASES[-1].birth = "1950-06-01"
case("day", "problems of one date share an artificial visit").visit("2010-03-05 09:00:00").event(
    "2010-03-05 09:10:00", HF
).event("2010-02-01 08:00:00", DM).event("2010-02-01 08:00:00", PAIN)
CASES[-1].birth = "1950-02-01"
case("day", "a problem of another visit's date goes to that visit").visit(
    "2010-03-05 09:00:00"
).event("2010-03-05 09:10:00", HF).visit("2011-03-05 09:00:00").event(
    "2011-03-05 09:10:00", DM
).event("2010-03-05 11:00:00", AF)
case("day", "a drug from months after its visit").visit("2010-03-05 09:00:00").event(
    "2010-03-05 09:10:00", HF
).event("2010-08-05 09:10:00", ASPIRIN, "drug")
case("day", "an event on the day after its outpatient visit").visit("2010-03-05 09:00:00").event(
    "2010-03-05 09:10:00", DM
).event("2010-03-06 08:00:00", HF)
case("day", "an event without a visit on a visit's day").visit("2010-03-05 09:00:00").event(
    "2010-03-05 09:10:00", HF
).event("2010-03-05 09:05:00", DM, visit=None)
case("day", "an event without a visit").visit("2010-03-05 09:00:00").event(
    "2010-03-05 09:10:00", HF
).event("2010-05-05 10:00:00", DM, visit=None)

# drugs
case("day", "a drug is told by its ingredient").visit("2010-03-05 09:00:00").event(
    "2010-03-05 09:10:00", ASPIRIN_PILL, "drug"
)
case("day", "a combination is told by each ingredient").visit("2010-03-05 09:00:00").event(
    "2010-03-05 09:10:00", COMBINATION, "drug"
)

# prompt
case("day", "unknown sex", gender=0).visit("2010-03-05 09:00:00").event("2010-03-05 09:10:00", HF)
case("day", "unknown race", race=0).visit("2010-03-05 09:00:00").event("2010-03-05 09:10:00", HF)
case("day", "a man", gender=8507, race=8515).visit("2010-03-05 09:00:00").event(
    "2010-03-05 09:10:00", HF
)
case("day", "age between two birthdays", birth="1950-10-20").visit("2010-03-05 09:00:00").event(
    "2010-03-05 09:10:00", HF
)
case("day", "age above ninety", birth="1915-03-05").visit("2010-03-05 09:00:00").event(
    "2010-03-05 09:10:00", HF
)
case("day", "first year of life", birth="2010-03-05").visit("2010-03-05 09:00:00").event(
    "2010-03-05 09:10:00", HF
)

# hours inside stays
case("hours", "outpatient visits have no hours").visit("2010-03-05 09:00:00").event(
    "2010-03-05 15:10:00", HF
)
case("hours", "hour of admission").visit(
    "2010-03-05 13:00:00", "2010-03-05 23:30:00", IP, HOME
).event("2010-03-05 13:00:00", HF).event("2010-03-05 23:20:00", DM)
case("hours", "admission after midnight has no hour").visit(
    "2010-03-05 00:30:00", "2010-03-05 23:30:00", IP, HOME
).event("2010-03-05 00:30:00", HF).event("2010-03-05 23:20:00", DM)
case("hours", "hours between groups of a day").visit(
    "2010-03-05 08:00:00", "2010-03-05 23:30:00", IP, HOME
).event("2010-03-05 08:00:00", HF).event("2010-03-05 11:00:00", DM).event("2010-03-05 23:00:00", AF)
case("hours", "hour of a new day").visit(
    "2010-03-05 08:00:00", "2010-03-06 23:30:00", IP, HOME
).event("2010-03-05 08:00:00", HF).event("2010-03-06 09:00:00", DM).event("2010-03-06 23:00:00", AF)
case("hours", "first hour of a new day").visit(
    "2010-03-05 08:00:00", "2010-03-06 23:30:00", IP, HOME
).event("2010-03-05 08:00:00", HF).event("2010-03-06 00:20:00", DM).event("2010-03-06 23:00:00", AF)
case("hours", "less than an hour over the full hour").visit(
    "2010-03-05 08:00:00", "2010-03-05 23:30:00", IP, HOME
).event("2010-03-05 08:00:00", HF).event("2010-03-05 10:50:00", DM).event(
    "2010-03-05 11:10:00", AF
).event("2010-03-05 23:20:00", PAIN)
case("hours", "first event hours after admission").visit(
    "2010-03-05 08:00:00", "2010-03-05 23:30:00", IP, HOME
).event("2010-03-05 12:00:00", HF).event("2010-03-05 23:20:00", DM)
case("hours", "discharge at noon").visit(
    "2010-03-05 08:00:00", "2010-03-07 12:00:00", IP, HOME
).event("2010-03-05 08:00:00", HF)

# death
case("death", "alive").visit("2010-03-05 09:00:00").event("2010-03-05 09:10:00", HF)
case("death", "death on the day of the last visit", died="2010-03-05").visit(
    "2010-03-05 09:00:00"
).event("2010-03-05 09:10:00", HF)
case("death", "death months after the last visit", died="2010-09-01").visit(
    "2010-03-05 09:00:00"
).event("2010-03-05 09:10:00", HF)
case("death", "death years after the last visit", died="2016-09-01").visit(
    "2010-03-05 09:00:00"
).event("2010-03-05 09:10:00", HF)
case("death", "death in a stay", died="2010-03-07").visit(
    "2010-03-05 09:00:00", "2010-03-07 12:00:00", IP, DIED
).event("2010-03-05 10:00:00", HF)
case("death", "death before the stay's end", died="2010-03-06").visit(
    "2010-03-05 09:00:00", "2010-03-08 12:00:00", IP, DIED
).event("2010-03-05 10:00:00", HF)
case("death", "a visit after death", died="2010-03-10").visit("2010-03-05 09:00:00").event(
    "2010-03-05 09:10:00", HF
).visit("2010-04-05 09:00:00").event("2010-04-05 09:10:00", HF)

# measurements
case("measurement", "a number").visit("2010-03-05 09:00:00").event(
    "2010-03-05 09:10:00", CREATININE, "measurement", value=1.1, unit=8840
)
case("measurement", "one laboratory test in two units").visit("2010-03-05 09:00:00").event(
    "2010-03-05 09:10:00", CREATININE, "measurement", value=1.1, unit=8840
).event("2010-03-05 10:10:00", CREATININE, "measurement", value=97.0, unit=8749)
case("measurement", "an answer").visit("2010-03-05 09:00:00").event(
    "2010-03-05 09:10:00", CULTURE, "measurement", answer=9191
).event("2010-03-05 09:10:00", HF)
case("measurement", "two numbers at one time").visit("2010-03-05 09:00:00").event(
    "2010-03-05 09:10:00", CREATININE, "measurement", value=1.1, unit=8840
).event("2010-03-05 09:10:00", CREATININE, "measurement", value=1.3, unit=8840)

# a visit of several days that is no stay is known at its last event
case("day", "gap before a visit of several days").visit("2010-03-01 09:00:00").event(
    "2010-03-01 09:00:00", HF
).visit("2010-03-05 09:00:00", "2010-03-08 12:00:00", 581385).event(
    "2010-03-05 10:00:00", DM
).event("2010-03-07 10:00:00", HF)
