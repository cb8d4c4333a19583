"""Checks of an OMOP database by SQL on its files: no R, no database server, no model."""

from __future__ import annotations

from chronoward.evaluation.omop.evaluate import evaluate_omop, run_checks

__all__ = ["evaluate_omop", "run_checks"]
