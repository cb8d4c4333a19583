"""Time tokens: which bucket a duration falls into, and what a bucket means on the clock.

Buckets are half open, in minutes. Under a calendar scheme (preset cehr) they are measured from the
midnight before the earlier moment, so that bucket n holds exactly the moments n dates later.
Definitions of day .. ethos: CEHR-GPT and ETHOS-ARES; ours: `log`, a named zero bucket everywhere
(`a gap token is always there`), and representatives that lie inside their bucket (CEHR-GPT decodes
some of cehr_bert's and mix's tokens to days outside the days they are made from).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

HOUR_MIN: Final = 60
DAY_MIN: Final = 1440
YEAR_DAYS: Final = 365.25
MONTH_DAYS: Final = 30.4375
LONG_TERM_DAYS: Final = 1080  # CEHR-GPT's LT starts here and is decoded as 1095 days
LONG_TERM_REPRESENTATIVE_DAYS: Final = 1095
REPEAT_MIN: Final = 180 * DAY_MIN  # ETHOS's =6mt, repeated round(gap / 180 d) times
OPEN_END_MIN: Final = 2**31 - 1

_LOG_EDGES: Final = (
    *((m, f"{m}m") for m in (1, 2, 3, 5, 10, 15, 20, 30, 45)),
    *((round(h * 60), f"{h:g}h") for h in (1, 1.5, 2, 3, 4, 6, 8, 12, 18)),
    *((d * DAY_MIN, f"{d}d") for d in (1, 2, 3, 5, 7, 10, 14, 21, 30, 45, 60, 90, 120, 180, 270)),
    *((round(y * 365.25 * DAY_MIN), f"{y:g}y") for y in (1, 1.5, 2, 3, 5, 10, 20)),
)
_ETHOS_EDGES: Final = (
    *((5, "5m"), (15, "15m"), (45, "45m"), (75, "1h15m")),
    *((h * 60, f"{h}h") for h in (2, 3, 5, 8, 12, 18)),
    *((d * DAY_MIN, f"{d}d") for d in (1, 2, 4, 7, 12, 20, 30)),
    (60 * DAY_MIN, "2mt"),
)


@dataclass(frozen=True)
class Bucket:
    """One time token: label, half-open bounds in minutes, days it stands for (calendar schemes)."""

    label: str
    lo: int
    hi: int
    days: int = 0
    is_repeat: bool = False


def _day_edges(scheme: str) -> list[tuple[int, str, int]]:
    """(first day, label, days it stands for) of the schemes made of days; LT is added by caller."""
    if scheme == "day":
        return [(n, f"D{n}", n) for n in range(LONG_TERM_DAYS)]
    if scheme == "week":
        return [(7 * n, f"W{n}", 7 * n) for n in range(-(-LONG_TERM_DAYS // 7))]
    if scheme == "month":
        return [(30 * n, f"M{n}", 30 * n) for n in range(LONG_TERM_DAYS // 30)]
    if scheme == "cehr_bert":
        weeks = [(7 * n, f"W{n}", 7 * n) for n in range(4)]
        return [*weeks, (28, "M0", 28), *((30 * n, f"M{n}", 30 * n) for n in range(1, 12))]
    days = [(n, f"D{n}", n) for n in range(8)]  # mix: D to 7, W(ceil n/7) to 30, M(ceil n/30)
    weeks = [(8, "W2", 14), (15, "W3", 21), (22, "W4", 28), (29, "W5", 30)]
    return [*days, *weeks, *((30 * n - 29, f"M{n}", 30 * n) for n in range(2, 13))]


def _long_term_start(scheme: str) -> int:
    return {"cehr_bert": 360, "mix": 361}.get(scheme, LONG_TERM_DAYS)


def make_buckets(scheme: str, *, prefix: str, shortest_min: int, repeat: bool) -> list[Bucket]:
    """All buckets of one scheme, contiguous from `shortest_min` upwards.

    Args:
        scheme: one of `spec.TIME_SCHEMES`.
        prefix: put before each label ("" or "i-").
        shortest_min: the shortest duration that gets a token: 0 between visits, 1 minute inside,
            a day inside a stay of a calendar scheme.
        repeat: make ETHOS's repeated =6mt token (else the last bucket is open).
    """
    if scheme in ("log", "ethos"):
        edges = list(_LOG_EDGES if scheme == "log" else _ETHOS_EDGES)
        if scheme == "ethos" or shortest_min == 0:
            edges.insert(0, (0, "0m"))
        uppers = [*edges[1:], (OPEN_END_MIN, "")]
        buckets = [
            Bucket(f"{prefix}{label}-{upper}" if upper else f"{prefix}{label}+", lo, hi)
            for (lo, label), (hi, upper) in zip(edges, uppers, strict=True)
        ]
        if scheme == "ethos" and repeat:
            last = Bucket(f"{prefix}2mt-6mt", buckets[-1].lo, REPEAT_MIN)
            # n repeats stand for [n - 1/2, n + 1/2) half years: the last of a run spans 90 to 270 d
            half = REPEAT_MIN // 2
            again = Bucket(f"{prefix}=6mt", half, REPEAT_MIN + half, is_repeat=True)
            buckets = [*buckets[:-1], last, again]
    else:
        first_days = [*_day_edges(scheme)]
        start = _long_term_start(scheme)
        first_days.append((start, "LT", LONG_TERM_REPRESENTATIVE_DAYS))
        uppers_min = [d * DAY_MIN for d, _, _ in first_days[1:]] + [OPEN_END_MIN]
        buckets = [
            Bucket(f"{prefix}{label}", day * DAY_MIN, hi, days)
            for (day, label, days), hi in zip(first_days, uppers_min, strict=True)
        ]
    if buckets[0].hi <= shortest_min:
        del buckets[0]
    first = buckets[0]
    lo = max(first.lo, shortest_min)
    return [Bucket(first.label, lo, first.hi, max(first.days, lo // DAY_MIN)), *buckets[1:]]


def age_bands(kind: str) -> list[tuple[int, str]]:
    """(first day, label) of the age tokens, ascending; ages over 89 years are top-coded.

    Args:
        kind: "clinical" (0 d, 1-6 d, 7-27 d, months to 24, years) or "years" (completed years).
    """
    years = [(int(np.ceil(n * YEAR_DAYS)), f"age:{n}") for n in range(1, 90)]
    top = (int(np.ceil(90 * YEAR_DAYS)), "age:90+")
    if kind == "years":
        return [(0, "age:0"), *years, top]
    months = [(round(n * MONTH_DAYS), f"age:{n}mo") for n in range(2, 24)]
    newborn = [(0, "age:0d"), (1, "age:1-6d"), (7, "age:7-27d"), (28, "age:1mo")]
    return [*newborn, *months, *years[1:], top]
