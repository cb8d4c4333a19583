"""Synthetic subjects from a trained model, written as OMOP CDM 5.4 or MEDS 0.4."""

from __future__ import annotations
