"""A source to a token store: prepare, fit on the train split, encode, write."""

from __future__ import annotations

from chronoward.tokenize.check import Findings, verify
from chronoward.tokenize.fitting import fit_tokenizer, merge_counts
from chronoward.tokenize.run import tokenize

__all__ = ["Findings", "fit_tokenizer", "merge_counts", "tokenize", "verify"]
