"""What JSON cannot promise of a vocabulary: every number within its type, every pointer inside.

A tokenizer.json whose hash is right may still have been written by something else; tables made of
it are indexed without looking.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from chronoward.errors import FormatError
from chronoward.tokenizer.grammar import N_KNOTS, DurationRule, TokenClass

if TYPE_CHECKING:
    from chronoward.tokenizer.code_entry import CodeEntry
    from chronoward.tokenizer.spec import TokenizerSpec
    from chronoward.tokenizer.vocabulary import Token, Vocabulary

_INT32_LOW, _INT32_HIGH = -(2**31), 2**31 - 1
_YEARS = range(1, 10_000)
_CLASSES, _RULES = frozenset(TokenClass), frozenset(DurationRule)
_TEXT_FIELDS = ("kind", "table", "code")
_OPTIONAL_TEXT = (
    *("unit", "description", "vocabulary_id", "domain_id", "concept_class_id", "sex_specific"),
)


def check_parts(vocabulary: Vocabulary) -> None:
    """Checks entries, tokens, the automaton and the quantile functions of starts.

    Raises:
        FormatError: a part that nothing of ours would have written.
    """
    v = vocabulary
    faults = [
        *("codes" for entry in v.codes if not _is_entry(entry)),
        *("tokens" for token in v.tokens if not _is_token(v, token)),
    ]
    plain = {token.entry for token in v.tokens if token.bin == -1}
    if any(has_token(e.kind, v.spec) and i not in plain for i, e in enumerate(v.codes)):
        faults.append("tokens")  # encoding would write one that is not there
    n_states, moves = len(v.state_names), v.next_state
    has_shape = moves.shape == (n_states, len(TokenClass)) and "start" in v.state_names
    if not has_shape or moves.min() < -1 or moves.max() >= n_states:
        faults.append("grammar")
    years = {t.value for t in v.tokens if t.token_class == TokenClass.YEAR}
    knots = [v.start_minute_q, *v.start_day_q.values(), *v.start_age_q.values()]
    if not years <= set(v.start_day_q) or not all(map(_are_knots, knots)):
        faults.append("start")
    if faults:
        message = f"tokenizer has a malformed part: {faults[0]}"
        raise FormatError(message)


def has_token(kind: str, spec: TokenizerSpec) -> bool:
    """Whether entries of a kind have a token of their own, without a value."""
    if kind in ("sex", "race"):
        return kind in spec.prompt_fields
    if kind in ("visit", "discharge"):
        return spec.preset != "events"
    return kind != "birth"


def _are_knots(values: object) -> bool:
    return (
        isinstance(values, tuple)
        and len(values) > 0
        and {int, float}.issuperset(map(type, values))
        and all(map(math.isfinite, values))
    )


def _is_entry(entry: CodeEntry) -> bool:
    texts = [getattr(entry, name) for name in _TEXT_FIELDS]
    optional = [getattr(entry, name) for name in _OPTIONAL_TEXT]
    numbers = (entry.concept_id, entry.n_subjects)
    return (
        {str}.issuperset(map(type, (*texts, *entry.texts)))
        and {str, type(None)}.issuperset(map(type, optional))
        and all(type(number) is int and abs(number) < 2**63 for number in numbers)
        and isinstance(entry.is_inpatient, bool)
        and (not entry.edges or _are_knots(entry.edges))
        and list(entry.edges) == sorted(entry.edges)
        and all(map(_are_knots, entry.quantiles))
        and len(entry.edges) == max(0, entry.n_bins - 1)
    )


def _is_token(v: Vocabulary, token: Token) -> bool:
    numbers = (token.entry, token.bin, token.value, token.lo, token.hi, *token.q)
    if not isinstance(token.label, str) or not {int}.issuperset(map(type, numbers)):
        return False
    if min(numbers) < _INT32_LOW or max(numbers) > _INT32_HIGH:
        return False
    if token.token_class not in _CLASSES or token.rule not in _RULES:
        return False
    if (len(token.q) == N_KNOTS) != (token.rule == DurationRule.QUANTILE):
        return False
    if token.token_class == TokenClass.YEAR and token.value not in _YEARS:
        return False
    if token.token_class == TokenClass.INPATIENT_HOUR and not 0 <= token.value < 24:
        return False
    if token.entry < 0 or token.token_class == TokenClass.VALUE or token.entry >= len(v.codes):
        return True
    entry = v.codes[token.entry]
    return -2 - len(entry.texts) < token.bin < max(1, entry.n_bins)
