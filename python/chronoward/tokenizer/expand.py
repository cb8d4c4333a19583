"""A tokenizer grown by the codes of another source; what it had stays as it was.

Ids, value bins, times, starts and prompts are the parent's, so its stores and models stay of use.
New codes come behind all old tokens, inside a moment too: the codes of a moment still stand in the
order of their ids, which the sampler relies on (`GrammarTables.codes_ascend`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from chronoward.tokenizer.fit import FitReport, fit_vocabulary, nearest_kept, possible_labels
from chronoward.tokenizer.grammar import TokenClass
from chronoward.tokenizer.tokenizer import Tokenizer
from chronoward.tokenizer.vocabulary import UNKNOWN_CODE, Generation, Token, Vocabulary

if TYPE_CHECKING:
    from chronoward.tokenizer.code_entry import CodeEntry
    from chronoward.tokenizer.counts import FitCounts
    from chronoward.tokenizer.inputs import CodeRows

_IN_EVERY_VOCABULARY: Final = ("sex", "birth", "death")


def expand(parent: Tokenizer, counts: FitCounts) -> Tokenizer:
    """Appends the codes of another source, with their value bins; never renumbers.

    A code that the parent knows in this unit keeps its value bins, or its having none. Prompts grow
    by races only: a year that the parent lacks still takes the nearest one.

    Args:
        parent: the tokenizer to grow.
        counts: of the other source's train split.

    Returns:
        The expanded tokenizer, which names the parent's hash; the parent's own vocabulary where the
        source has nothing that it lacks.

    Raises:
        ConfigError: no code of the source reaches `min_subjects`.
    """
    old = parent.vocabulary
    most_bins = max((entry.n_bins for entry in old.codes), default=0)
    shares_values = old.spec.values == "split" and most_bins > 0
    spec = replace(old.spec, n_value_bins=max(2, most_bins)) if shares_values else old.spec
    other, report = fit_vocabulary(counts, spec)
    added = _Added.of(old, other, most_bins if shares_values else None)
    grown = added.to(old, parent.hash) if added.codes else old
    return Tokenizer(grown, settle(report, grown, counts.codes))


def as_child(tokenizer: Tokenizer, parent: Tokenizer) -> Tokenizer:
    """Names the parent where something else than its tokens has changed since (its placements)."""
    old = tokenizer.vocabulary
    if tokenizer.hash == parent.hash or old.parent_hash == parent.hash:
        return tokenizer
    generation = Generation(parent.hash, len(old.codes), len(old.tokens))
    grown = replace(old, generations=(*old.generations, generation))
    return Tokenizer(grown, tokenizer.fit_report)


@dataclass(frozen=True)
class _Added:
    """New entries, and the tokens of each as the other source's vocabulary has them."""

    codes: list[CodeEntry]
    tokens: list[list[Token]]

    @classmethod
    def of(cls, old: Vocabulary, other: Vocabulary, most_bins: int | None) -> _Added:
        """What `other` has and `old` lacks, in order.

        Args:
            old: the vocabulary to grow.
            other: that of the other source.
            most_bins: shared value tokens that there are, None where any number may be added.
        """
        tokens: list[list[Token]] = [[] for _ in other.codes]
        for token in other.tokens:
            if token.entry >= 0:
                tokens[token.entry].append(token)
        defaults = {(kind, code) for kind, code in UNKNOWN_CODE.items()}
        codes, kept = [], []
        for entry, own in zip(other.codes, tokens, strict=True):
            is_everywhere = (
                entry.kind in _IN_EVERY_VOCABULARY or (entry.kind, entry.code) in defaults
            )
            if not own or is_everywhere or entry.key in old.entry_index:
                continue
            too_fine = most_bins is not None and entry.n_bins > most_bins
            codes.append(replace(entry, edges=(), quantiles=()) if too_fine else entry)
            kept.append(own)
        return cls(codes, kept)

    def to(self, old: Vocabulary, hash_: str) -> Vocabulary:
        """The vocabulary with the entries and their tokens behind its own."""
        generation = Generation(hash_, len(old.codes), len(old.tokens))
        codes = (*old.codes, *self.codes)
        known = {("code", entry.table, entry.code) for entry in codes if entry.kind == "code"}
        grown = replace(
            old,
            codes=codes,
            generations=(*old.generations, generation),
            placements=tuple(p for p in old.placements if ("code", *p[:2]) not in known),
        )
        taken = {token.label for token in old.tokens}
        added: list[Token] = []
        for i, (entry, own) in enumerate(zip(self.codes, self.tokens, strict=True)):
            tokens = _named(entry, own, taken, grown)
            taken |= {token.label for token in tokens}
            added += [token._replace(entry=len(old.codes) + i) for token in tokens]
        if old.spec.values == "split":
            added += _value_tokens(grown, taken)
        added.sort(key=lambda token: token.token_class)  # stable, as `fit` sorts them
        return replace(grown, tokens=(*old.tokens, *added))


def _named(
    entry: CodeEntry, tokens: list[Token], taken: set[str], grown: Vocabulary
) -> list[Token]:
    """An entry's tokens under the shortest label that is free."""
    before = len(next(token.label for token in tokens if token.bin == -1))
    for name in possible_labels(entry, grown.spec):
        renamed = [token._replace(label=name + token.label[before:]) for token in tokens]
        if not taken & {token.label for token in renamed}:
            break
    return renamed  # where all are taken the vocabulary's own check says so


def _value_tokens(grown: Vocabulary, taken: set[str]) -> list[Token]:
    """Shared value tokens that are not there yet (values=split)."""
    n_bins = max((entry.n_bins for entry in grown.codes), default=0)
    numbers = [(f"VALUE//q{b}", b) for b in range(n_bins)]
    numbers += [(f"VALUE//={text}", -2 - i) for text, i in grown.text_index.items()]
    return [
        Token(label=label, token_class=TokenClass.VALUE, bin=bin_)
        for label, bin_ in numbers
        if label not in taken
    ]


def settle(report: FitReport, vocabulary: Vocabulary, code_rows: CodeRows) -> FitReport:
    """What becomes of the codes that a fit did not keep, with another vocabulary.

    Args:
        report: of the fit.
        vocabulary: the one to look them up in.
        code_rows: the source's code table by (table, code).
    """
    known = set(vocabulary.dominant_entry)
    found: dict[str, list[dict[str, Any]]] = {"rolled_up": [], "placed": [], "dropped": []}
    for row in sorted(
        (*report.rolled_up, *report.placed, *report.dropped),
        key=lambda r: (r["kind"], r["table"], r["code"], r["unit"] or ""),
    ):
        plain = {name: value for name, value in row.items() if name != "to"}
        kind, table, code, unit = (row[name] for name in ("kind", "table", "code", "unit"))
        if (kind, table, code, unit) in vocabulary.entry_index:
            continue
        target = nearest_kept(kind, table, code, known, code_rows.get((table, code)))
        near = vocabulary.placed.get((table, code)) if kind == "code" else None
        if target is not None:
            found["rolled_up"].append({**plain, "to": target})
        elif near is not None:
            found["placed"].append({**plain, "to": near})
        else:
            found["dropped"].append(plain)
    return FitReport(**{name: tuple(rows) for name, rows in found.items()})
