"""Gaps and values that are compared one by one: both sides of each bound; a skewed test."""

from __future__ import annotations

HOUR, DAY = 60, 1440
BOUNDS = (
    *(5, 15, 45, 75),
    *(h * HOUR for h in (2, 3, 5, 8, 12, 18, 24)),
    *(d * DAY for d in (2, 4, 7, 12, 20, 30, 60, 180, 270, 450, 900)),
)
GAPS_MIN = sorted({0, 1, *BOUNDS, *(b - 1 for b in BOUNDS)})

VALUES = [round(0.4 + i * 0.01 + (i / 100) ** 3, 4) for i in range(400)]
