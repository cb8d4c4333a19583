"""Times of the twin: `datetime` without zone; a date stands at its 00:00:00."""

from __future__ import annotations

from datetime import datetime, timedelta

ONE_DAY = timedelta(days=1)
_LAST_MOMENT = timedelta(hours=23, minutes=59, seconds=59)


def day(time: datetime) -> datetime:
    """00:00:00 of the day."""
    return datetime(time.year, time.month, time.day)


def day_end(time: datetime) -> datetime:
    """23:59:59 of the day: when what is known of the day is known."""
    return day(time) + _LAST_MOMENT


def is_midnight(time: datetime) -> bool:
    return time == day(time)


def earliest(*times: datetime | None) -> datetime:
    """The first of the times that are known."""
    return min(time for time in times if time is not None)


def latest(*times: datetime | None) -> datetime:
    """The last of the times that are known."""
    return max(time for time in times if time is not None)
