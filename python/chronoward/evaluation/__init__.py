"""Judges files, never a model: predictions of any model, synthetic folders of any generator."""

from __future__ import annotations
