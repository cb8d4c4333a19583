"""Events to tokens and back: specification, fit, encode, decode, grammar."""

from __future__ import annotations

from chronoward.tokenizer.batch import TokenBatch
from chronoward.tokenizer.counts import CountingScan, FitCounts, count
from chronoward.tokenizer.expand import expand
from chronoward.tokenizer.grammar import DurationRule, GrammarTables, TokenClass
from chronoward.tokenizer.spec import TokenizerSpec
from chronoward.tokenizer.tokenizer import Tokenizer, fit, fit_counts

__all__ = [
    "CountingScan",
    "DurationRule",
    "FitCounts",
    "GrammarTables",
    "TokenBatch",
    "TokenClass",
    "Tokenizer",
    "TokenizerSpec",
    "count",
    "expand",
    "fit",
    "fit_counts",
]
