"""Where preset cehr differs from CEHR-GPT on purpose: our tokens, and the reason.

The reasons are listed in docs/cehrgpt.md by the same keys.
"""

from __future__ import annotations

REASONS: dict[str, str] = {
    "age": "completed years, top-coded at 90; CEHR-GPT rounds months up (its MEDS path does not)",
    "known_when": "a visit without inner time stands at its last event, when all of it is known",
    "no_event_before_known": "a record dated after its visit gets a visit of its own",
    "no_visit": "records without a visit are linked by date or get a visit; CEHR-GPT drops them",
    "overlap": "the clock does not go back: what overlaps starts when the visit before it ends",
    "stay_begins": "days from admission to the first event are told; CEHR-GPT loses them",
    "visit_end": "a stay without an end ends with its last event; CEHR-GPT takes it apart",
    "death": "nothing lies after death, and a discharge as dead is a death",
    "hours": "clock hours, none lost; CEHR-GPT loses a day's first interval, fractions of an hour, "
    "and puts every discharge at 23:59",
    "two_values": "without values, two results of a test at one time are one token",
    "short_gap": "a gap under five minutes has a token (left out again by the export)",
    "bin_edge": "a value on the edge of two bins is in the upper one",
}

# (run, case): our tokens, reason
OURS: dict[tuple[str, str], tuple[str, str]] = {
    ("day", "discharged dead"): (
        "year:2010 age:60 8532 8527 [VS] 9201 316139 i-D2 4216643 [VE] D0 [VS] [DEATH] [VE]",
        "death",
    ),
    ("day", "a stay without an end"): (
        "year:2010 age:60 8532 8527 [VS] 9201 316139 i-D2 201826 Discharge/0 [VE] D3 [VS] "
        "9202 316139 [VE]",
        "visit_end",
    ),
    ("day", "nothing on the first day of a stay"): (
        "year:2010 age:60 8532 8527 [VS] 9201 i-D2 316139 i-D2 8536 [VE]",
        "stay_begins",
    ),
    ("day", "an event hours after its stay"): (
        "year:2010 age:60 8532 8527 [VS] 9201 316139 i-D1 8536 [VE] D1 [VS] Visit/0 201826 [VE]",
        "no_event_before_known",
    ),
    ("day", "an outpatient visit inside a stay"): (
        "year:2010 age:60 8532 8527 [VS] 9201 316139 i-D2 201826 i-D2 8536 [VE]",
        "overlap",
    ),
    ("day", "gap after a visit inside a stay"): (
        "year:2010 age:60 8532 8527 [VS] 9201 316139 i-D2 201826 i-D2 8536 [VE] D11 [VS] "
        "9202 316139 [VE]",
        "overlap",
    ),
    ("day", "stays that overlap"): (
        "year:2010 age:60 8532 8527 [VS] 9201 316139 i-D4 8536 [VE] D0 [VS] 9201 i-D1 "
        "201826 i-D2 8536 [VE]",
        "stay_begins",
    ),
    ("day", "a problem of another visit's date goes to that visit"): (
        "year:2010 age:60 8532 8527 [VS] 9202 316139 [VE] D0 [VS] Visit/0 313217 [VE] "
        "D365 [VS] 9202 201826 [VE]",
        "no_event_before_known",
    ),
    ("day", "an event on the day after its outpatient visit"): (
        "year:2010 age:60 8532 8527 [VS] 9202 201826 [VE] D1 [VS] Visit/0 316139 [VE]",
        "no_event_before_known",
    ),
    ("day", "an event without a visit on a visit's day"): (
        "year:2010 age:60 8532 8527 [VS] 9202 201826 316139 [VE]",
        "no_visit",
    ),
    ("day", "an event without a visit"): (
        "year:2010 age:60 8532 8527 [VS] 9202 316139 [VE] D61 [VS] Visit/0 201826 [VE]",
        "no_visit",
    ),
    ("day", "age between two birthdays"): (
        "year:2010 age:59 8532 8527 [VS] 9202 316139 [VE]",
        "age",
    ),
    ("day", "age above ninety"): (
        "year:2010 age:90+ 8532 8527 [VS] 9202 316139 [VE]",
        "age",
    ),
    ("hours", "hour of admission"): (
        "year:2010 age:60 8532 8527 [VS] 9201 i-H13 316139 i-H10 201826 8536 [VE]",
        "hours",
    ),
    ("hours", "admission after midnight has no hour"): (
        "year:2010 age:60 8532 8527 [VS] 9201 316139 i-H23 201826 8536 [VE]",
        "hours",
    ),
    ("hours", "hours between groups of a day"): (
        "year:2010 age:60 8532 8527 [VS] 9201 i-H8 316139 i-H3 201826 i-H12 313217 8536 [VE]",
        "hours",
    ),
    ("hours", "first hour of a new day"): (
        "year:2010 age:60 8532 8527 [VS] 9201 i-H8 316139 i-D1 201826 i-H23 313217 8536 [VE]",
        "hours",
    ),
    ("hours", "less than an hour over the full hour"): (
        "year:2010 age:60 8532 8527 [VS] 9201 i-H8 316139 i-H2 201826 i-H1 313217 i-H12 "
        "77670 8536 [VE]",
        "hours",
    ),
    ("hours", "first event hours after admission"): (
        "year:2010 age:60 8532 8527 [VS] 9201 i-H8 i-H4 316139 i-H11 201826 8536 [VE]",
        "hours",
    ),
    ("hours", "discharge at noon"): (
        "year:2010 age:60 8532 8527 [VS] 9201 i-H8 316139 i-D2 i-H12 8536 [VE]",
        "hours",
    ),
    ("death", "death before the stay's end"): (
        "year:2010 age:60 8532 8527 [VS] 9201 316139 i-D1 4216643 [VE] D0 [VS] [DEATH] [VE]",
        "death",
    ),
    ("death", "a visit after death"): (
        "year:2010 age:60 8532 8527 [VS] 9202 316139 [VE] D5 [VS] [DEATH] [VE]",
        "death",
    ),
    ("measurement", "two numbers at one time"): (
        "year:2010 age:60 8532 8527 [VS] 9202 3016723 [VE]",
        "two_values",
    ),
    ("day", "gap before a visit of several days"): (
        "year:2010 age:60 8532 8527 [VS] 9202 316139 [VE] D6 [VS] 581385 201826 316139 [VE]",
        "known_when",
    ),
}
