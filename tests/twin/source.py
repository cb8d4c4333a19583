"""Tables of a source as the twin reads them: rows of texts, cast one cell at a time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

Row = dict[str, str | None]


@dataclass
class Cells:
    """One row; a missing column, an empty and a blank cell say nothing."""

    row: Row

    def text(self, column: str | None) -> str | None:
        value = self.row.get(column) if column else None
        return (value or "").strip(" ") or None

    def integer(self, column: str | None) -> int | None:
        text = self.text(column)
        try:
            return None if text is None else int(text)
        except ValueError:
            return None

    def number(self, column: str | None) -> float | None:
        text = self.text(column)
        try:
            return None if text is None else float(text)
        except ValueError:
            return None

    def time(self, column: str | None) -> datetime | None:
        text = self.text(column)
        if text is None:
            return None
        for shape in ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y%m%d"):
            try:
                return datetime.strptime(text, shape)
            except ValueError:
                continue
        return None

    def day(self, column: str | None) -> datetime | None:
        time = self.time(column)
        return None if time is None else datetime(time.year, time.month, time.day)

    def is_unreadable(self, column: str | None) -> bool:
        """Whether something is written where a time should be."""
        return self.text(column) is not None and self.time(column) is None
