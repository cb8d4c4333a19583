"""Observation periods of every subject: the source's own, else first event to last known day."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chronoward.data.omop_subjects import day_end
from chronoward.data.workspace import quote_text
from chronoward.schema import observation_schema

if TYPE_CHECKING:
    import pyarrow as pa

    from chronoward.data.config import IngestConfig
    from chronoward.data.workspace import Workspace


def make_observation(
    work: Workspace, config: IngestConfig, extract_date: str | None
) -> tuple[pa.Table, str]:
    """Observation periods (observation_schema) and the rule that made those of the source's gaps.

    Subjects without a period are observed from their first timed event other than birth (their
    birth, when there is no other) to their last one, or to the extract date, or to their death.

    Args:
        work: holds `period`, `times` and `subject`.
        config: `observation_end` decides.
        extract_date: known day of extraction.
    """
    by_extract = config.observation_end == "extract_date" and extract_date is not None
    last = (
        f"GREATEST(max(t.last), {day_end(f'TIMESTAMP {quote_text(str(extract_date))}')})"
        if by_extract
        else "max(t.last)"
    )
    table = work.table(
        f"""WITH filled AS (SELECT t.subject_id, min(t.first) AS start,
            LEAST({last}, any_value(p.death)) AS finish
          FROM times t JOIN subject p ON t.subject_id = p.subject_id
          WHERE t.subject_id NOT IN (SELECT subject_id FROM period) GROUP BY t.subject_id)
        SELECT subject_id, start AS start_time, finish AS end_time FROM (
          SELECT subject_id, start, finish FROM period
          WHERE subject_id IN (SELECT subject_id FROM subject WHERE gone = 0)
          UNION ALL SELECT * FROM filled) ORDER BY subject_id, start, finish"""
    )
    has_periods = bool(work.value("SELECT count(*) FROM period"))
    rule = "extract_date" if by_extract else "last_event"
    return table.cast(observation_schema()), (
        f"observation_period, else {rule}" if has_periods else rule
    )
