"""Condition and drug eras by OHDSI's 30-day rule, over the exposures just written.

An era joins exposures of one concept whose gap is at most 30 days. Drug exposures that overlap are
first merged into spells, and `gap_days` counts the days of an era outside its spells. Only
ingredients make drug eras. Islands are found by running maxima; the checks of
chronoward.evaluation.omop find them in OHDSI's own way.
"""

from __future__ import annotations

PERSISTENCE_DAYS = 30


def _islands(source: str, pad_days: int, sums: str) -> str:
    """SQL: intervals of `source` joined where the next starts at most `pad_days` after the end.

    `source` has person_id, concept_id, start_date, end_date, n.
    """
    return f"""
    SELECT person_id, concept_id, min(start_date) AS start_date, max(end_date) AS end_date,
      sum(n) AS n{sums}
    FROM (
      SELECT *, sum(CASE WHEN reach IS NULL OR start_date > reach + {pad_days} THEN 1 ELSE 0 END)
        OVER (PARTITION BY person_id, concept_id ORDER BY place) AS island
      FROM (
        SELECT *, max(end_date) OVER (PARTITION BY person_id, concept_id ORDER BY place
          ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS reach
        FROM (
          SELECT *, row_number() OVER (ORDER BY person_id, concept_id, start_date, end_date)
            AS place FROM {source}
        )
      )
    ) GROUP BY person_id, concept_id, island
    """


CONDITION_ERA = f"""
WITH exposure AS (
  SELECT person_id, condition_concept_id AS concept_id, condition_start_date AS start_date,
    condition_end_date AS end_date, 1 AS n
  FROM condition_occurrence WHERE condition_concept_id <> 0
)
SELECT person_id, concept_id AS condition_concept_id, start_date AS condition_era_start_date,
  end_date AS condition_era_end_date, n AS condition_occurrence_count
FROM ({_islands("exposure", PERSISTENCE_DAYS, "")})
ORDER BY person_id, condition_era_start_date, condition_concept_id
"""

DRUG_ERA = f"""
WITH exposure AS (
  SELECT person_id, drug_concept_id AS concept_id, drug_exposure_start_date AS start_date,
    drug_exposure_end_date AS end_date, 1 AS n
  FROM drug_exposure
  WHERE drug_concept_id IN (SELECT standard_id FROM code_map WHERE is_ingredient)
    AND drug_concept_id <> 0
), spell AS ({_islands("exposure", 0, "")})
SELECT person_id, concept_id AS drug_concept_id, start_date AS drug_era_start_date,
  end_date AS drug_era_end_date, n AS drug_exposure_count,
  date_diff('day', start_date, end_date) - exposed AS gap_days
FROM ({
    _islands(
        "spell",
        PERSISTENCE_DAYS,
        ", sum(date_diff('day', start_date, end_date)) AS exposed",
    )
})
ORDER BY person_id, drug_era_start_date, drug_concept_id
"""
