"""Who is asked when, what happened next, and what was known: cohorts for scoring and evaluation."""

from __future__ import annotations

from chronoward.cohort.build import CohortConfig, build_cohort
from chronoward.cohort.index import IndexRule, parse_index

__all__ = ["CohortConfig", "IndexRule", "build_cohort", "parse_index"]
