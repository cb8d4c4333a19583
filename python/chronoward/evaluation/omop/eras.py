"""Eras as OHDSI's scripts define them, written a second time to check what a writer built.

The writer uses running maxima (gaps and islands); here an era's end is found by OHDSI's own way of
counting: put every start and every padded end in one ordered list; where as many exposures have
ended as have started, an era ends. Two derivations that agree are hardly wrong in the same way.
"""

from __future__ import annotations

PERSISTENCE_DAYS = 30


def _end_dates(source: str, pad_days: int) -> str:
    """SQL: ends of merged intervals of `source` (person_id, concept_id, start_date, end_date)."""
    return f"""
    SELECT person_id, concept_id, event_date - INTERVAL {pad_days} DAY AS end_date FROM (
      SELECT person_id, concept_id, event_date,
        sum(is_start) OVER ordered AS started, row_number() OVER ordered AS seen
      FROM (
        SELECT person_id, concept_id, start_date AS event_date, 1 AS is_start FROM {source}
        UNION ALL
        SELECT person_id, concept_id, end_date + INTERVAL {pad_days} DAY, 0 FROM {source}
      )
      WINDOW ordered AS (
        PARTITION BY person_id, concept_id ORDER BY event_date, is_start DESC
        ROWS UNBOUNDED PRECEDING)
    ) WHERE 2 * started = seen
    """


def _merged(source: str, ends: str) -> str:
    """SQL: each interval of `source` with the end of the merged interval it belongs to."""
    return f"""
    SELECT s.person_id, s.concept_id, s.start_date, s.id,
      CAST(min(e.end_date) AS DATE) AS merged_end
    FROM {source} s JOIN {ends} e
      ON s.person_id = e.person_id AND s.concept_id = e.concept_id
      AND e.end_date >= s.start_date
    GROUP BY ALL
    """


CONDITION_ERAS = f"""
WITH exposure AS (
  SELECT row AS id, person_id, condition_concept_id AS concept_id,
    condition_start_date AS start_date,
    CAST(greatest(condition_start_date, COALESCE(condition_end_date,
      condition_start_date + INTERVAL 1 DAY)) AS DATE) AS end_date
  FROM cdm.condition_occurrence
  WHERE condition_concept_id <> 0 AND condition_start_date IS NOT NULL
), ends AS ({_end_dates("exposure", PERSISTENCE_DAYS)}),
merged AS ({_merged("exposure", "ends")})
SELECT person_id, concept_id, min(start_date) AS start_date, merged_end AS end_date,
  count(*) AS n
FROM merged GROUP BY person_id, concept_id, merged_end
"""

# {ingredient} is filled with a relation (drug_concept_id, ingredient_id).
DRUG_ERAS = f"""
WITH ingredient AS ({{ingredient}}), exposure AS (
  SELECT d.row AS id, person_id, ingredient_id AS concept_id,
    drug_exposure_start_date AS start_date,
    CAST(greatest(drug_exposure_start_date, COALESCE(drug_exposure_end_date,
      CASE WHEN days_supply > 0
        THEN drug_exposure_start_date + to_days(days_supply) END,
      drug_exposure_start_date + INTERVAL 1 DAY)) AS DATE) AS end_date
  FROM cdm.drug_exposure d JOIN ingredient i USING (drug_concept_id)
  WHERE drug_exposure_start_date IS NOT NULL
), sub_ends AS ({_end_dates("exposure", 0)}),
sub_member AS ({_merged("exposure", "sub_ends")}),
sub AS (
  SELECT row_number() OVER () AS id, person_id, concept_id, min(start_date) AS start_date,
    merged_end AS end_date, count(*) AS n
  FROM sub_member GROUP BY person_id, concept_id, merged_end
), ends AS ({_end_dates("sub", PERSISTENCE_DAYS)}),
merged AS ({_merged("sub", "ends")})
SELECT person_id, concept_id, min(m.start_date) AS start_date, merged_end AS end_date,
  sum(n) AS n,
  date_diff('day', min(m.start_date), merged_end)
    - sum(date_diff('day', s.start_date, s.end_date)) AS gap_days
FROM merged m JOIN sub s USING (id, person_id, concept_id)
GROUP BY person_id, concept_id, merged_end
"""
