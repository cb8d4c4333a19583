"""The vocabulary: code entries and tokens, their JSON, and the flat tables that encode runs on."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from chronoward.errors import FormatError
from chronoward.tokenizer.code_entry import CodeEntry
from chronoward.tokenizer.encode_tables import EncodeTables
from chronoward.tokenizer.grammar import (
    N_KNOTS,
    DurationRule,
    GrammarTables,
    TokenClass,
    make_masks,
)
from chronoward.tokenizer.spec import TokenizerSpec
from chronoward.tokenizer.time_scheme import DAY_MIN, YEAR_DAYS
from chronoward.tokenizer.vocabulary_check import check_parts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

KINDS: Final = ("sex", "race", "visit", "detail", "code", "discharge", "death", "birth")
UNKNOWN_CODE: Final = {
    "sex": "Gender/U",
    "race": "Race/0",
    "visit": "Visit/0",
    "discharge": "Discharge/0",
}
SEX_INDEX: Final = {"F": 1, "M": 2}
NO_AGE: Final = -1  # value of the token `age:unknown`


class Token(NamedTuple):
    """One token. `value`: the year, the age band's first day, the sex, days or hours, by class.

    `entry` is the code entry it stands for, -1 for structural tokens. `bin`: -1 without a value, b
    for bin b, -2 - i for text category i (of the code; of all codes for `value` tokens).
    """

    label: str
    token_class: int
    entry: int = -1
    bin: int = -1
    value: int = 0
    rule: int = 0
    lo: int = 0
    hi: int = 0
    q: tuple[int, ...] = ()


class Generation(NamedTuple):
    """A tokenizer that this one descends from: its hash, and how much of this one it had."""

    hash: str
    n_codes: int
    n_tokens: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Vocabulary:
    """All of tokenizer.json as objects.

    Attributes:
        spec: what was asked for.
        codes: the entries; `Token.entry` points here.
        tokens: in order of token id.
        state_names: states of the automaton.
        next_state: int8 (S, C).
        start_day_q: year -> knots of the day of the year (0..365) on which timelines start.
        start_age_q: age token id -> knots of days since birth inside the band.
        start_minute_q: knots of the minute of the day at which timelines start.
        generations: the tokenizers that this one extends, the oldest first.
        placements: (table, code, kept code of that table): what stands for codes that neither the
            vocabulary nor an ancestor of theirs in it knows.
    """

    spec: TokenizerSpec
    codes: tuple[CodeEntry, ...]
    tokens: tuple[Token, ...]
    state_names: tuple[str, ...]
    next_state: NDArray[np.int8]
    start_day_q: dict[int, tuple[int, ...]] = field(default_factory=dict)
    start_age_q: dict[int, tuple[int, ...]] = field(default_factory=dict)
    start_minute_q: tuple[int, ...] = ()
    generations: tuple[Generation, ...] = ()
    placements: tuple[tuple[str, str, str], ...] = ()

    @property
    def parent_hash(self) -> str | None:
        """Hash of the tokenizer that this one extends, None where it extends none."""
        return self.generations[-1].hash if self.generations else None

    @cached_property
    def _token_columns(self) -> dict[str, tuple[Any, ...]]:
        columns = zip(*self.tokens, strict=True) if self.tokens else ((),) * len(Token._fields)
        return dict(zip(Token._fields, columns, strict=True))

    @cached_property
    def _columns(self) -> dict[tuple[str, type], NDArray[Any]]:
        """What `column` made."""
        return {}

    def column(self, name: str, dtype: type) -> NDArray[Any]:
        """One attribute of all tokens, (V,); not to be written to."""
        made = self._columns.get((name, dtype))
        if made is None:
            made = self._columns[name, dtype] = np.array(self._token_columns[name], dtype)
            made.flags.writeable = False
        return made

    def ids_of(self, token_class: TokenClass) -> NDArray[np.int32]:
        """Token ids of one class, ascending."""
        return np.flatnonzero(self.column("token_class", np.uint8) == token_class).astype(np.int32)

    @cached_property
    def base_code(self) -> NDArray[np.int32]:
        """int32 (V,): the code entry, -1 for structural tokens and the prompt."""
        token_class = self.column("token_class", np.uint8)
        in_prompt = (token_class == TokenClass.SEX) | (token_class == TokenClass.RACE)
        return np.where(in_prompt, -1, self.column("entry", np.int32)).astype(np.int32)

    def single(self, token_class: TokenClass) -> int:
        """The id of a class with one token, -1 where the class is absent."""
        ids = self.ids_of(token_class)
        return int(ids[0]) if len(ids) else -1

    @cached_property
    def entry_index(self) -> dict[tuple[str, str, str, str | None], int]:
        """Entry key -> index in `codes`."""
        return {entry.key: i for i, entry in enumerate(self.codes)}

    @cached_property
    def dominant_entry(self) -> dict[tuple[str, str, str], int]:
        """(kind, table, code) -> the entry of its most frequent unit, of the oldest generation."""
        best: dict[tuple[str, str, str], int] = {}
        for codes in self._codes_by_generation():
            own: dict[tuple[str, str, str], int] = {}
            for i in codes:
                entry = self.codes[i]
                key = (entry.kind, entry.table, entry.code)
                if key not in own or entry.n_subjects > self.codes[own[key]].n_subjects:
                    own[key] = i
            best = own | best
        return best

    def _codes_by_generation(self) -> Iterator[range]:
        """Numbers of the entries that each generation brought, the oldest first."""
        bounds = [0, *(g.n_codes for g in self.generations), len(self.codes)]
        yield from (range(a, b) for a, b in itertools.pairwise(bounds))

    @cached_property
    def placed(self) -> dict[tuple[str, str], str]:
        """(table, code) -> the kept code that stands for it."""
        return {(table, code): kept for table, code, kept in self.placements}

    @cached_property
    def text_index(self) -> dict[str, int]:
        """Text category -> its number, over all codes; shared value tokens keep theirs."""
        is_split = self.spec.values == "split"
        groups = self._codes_by_generation() if is_split else [range(len(self.codes))]
        found: dict[str, int] = {}
        for codes in groups:
            texts = {text for i in codes for text in self.codes[i].texts}
            for text in sorted(texts - set(found)):
                found[text] = len(found)
        return found

    @cached_property
    def age_tokens(self) -> tuple[NDArray[np.int32], NDArray[np.int32], int]:
        """(lower edges in minutes, their tokens, token of an unknown age)."""
        ids = self.ids_of(TokenClass.AGE)
        days = np.array([self.tokens[i].value for i in ids], np.int64)
        known = days != NO_AGE
        unknown = ids[~known]
        edges = (days[known] * DAY_MIN).astype(np.int32)
        return edges, ids[known], int(unknown[0]) if len(unknown) else -1

    @cached_property
    def year_tokens(self) -> tuple[int, NDArray[np.int32]]:
        """(first year, token of each year from it on); years between two kept take the earlier."""
        ids = self.ids_of(TokenClass.YEAR)
        if not len(ids):
            return 0, np.zeros(0, np.int32)
        years = np.array([self.tokens[i].value for i in ids], np.int64)
        span = np.arange(years[0], years[-1] + 1)
        return int(years[0]), ids[np.searchsorted(years, span, side="right") - 1]

    @cached_property
    def max_clock_min(self) -> int:
        """Cap on the clock, minutes since origin."""
        return int(self.spec.max_age_years * YEAR_DAYS * DAY_MIN)

    @cached_property
    def token_sex(self) -> NDArray[np.uint8]:
        """uint8 (V,): 1 F, 2 M for sex tokens, else 0."""
        is_sex = self.column("token_class", np.uint8) == TokenClass.SEX
        return np.where(is_sex, self.column("value", np.int64), 0).astype(np.uint8)

    @cached_property
    def entry_order(self) -> NDArray[np.int64]:
        """int64 (E,): place of each entry in the order of (table, code, unit)."""
        place = np.empty(len(self.codes), np.int64)
        keys = [(e.table, e.code, e.unit or "") for e in self.codes]
        place[sorted(range(len(keys)), key=keys.__getitem__)] = np.arange(len(keys))
        return place

    @cached_property
    def value_knots(
        self,
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """All bins' quantile functions, flat: (knots, first knot and number of knots per bin,
        first bin per entry (E + 1,))."""
        bins = [q for e in self.codes for q in e.quantiles]
        lengths = np.array([len(q) for q in bins], np.int64)
        first_bin = np.zeros(len(self.codes) + 1, np.int64)
        np.cumsum([e.n_bins for e in self.codes], out=first_bin[1:])
        knots = np.array([k for q in bins for k in q], np.float64)
        return knots, np.cumsum(lengths) - lengths, lengths, first_bin

    def text_number(self, entry: int, text: int) -> int:
        """Number of a token's text: `text` counts the entry's own, or all under values=split."""
        texts = self.codes[entry].texts
        if self.spec.values == "split":
            known = {self.text_index[t] for t in texts}
            return text if text in known else -1
        return self.text_index[texts[text]]

    def make_encode_tables(self) -> EncodeTables:
        """The flat arrays for encode."""
        spec, token_class = self.spec, self.column("token_class", np.uint8)
        year_first, year_token = self.year_tokens
        age_edge_min, age_token, age_unknown = self.age_tokens
        hours = np.full(24, -1, np.int32)
        for token in self.ids_of(TokenClass.INPATIENT_HOUR):
            hours[self.tokens[token].value] = token
        low = self.column("lo", np.int32)
        gaps, inner = self.ids_of(TokenClass.GAP), self.ids_of(TokenClass.INPATIENT_GAP)
        one = self.single
        special = (TokenClass.VISIT_START, TokenClass.VISIT_END, TokenClass.DETAIL_END)
        return EncodeTables(
            preset=("compact", "cehr", "events").index(spec.preset),
            resolution_min=spec.resolution_min,
            is_calendar=spec.is_calendar,
            order_by_time=spec.event_order == "time",
            use_details=bool(spec.details),
            use_hours=spec.hour_tokens,
            is_split=spec.values == "split",
            max_clock_min=self.max_clock_min,
            special=np.array(
                [one(TokenClass.END), *map(one, special), one(TokenClass.DEATH)], np.int32
            ),
            default_token=self._default_tokens(),
            prompt_classes=_prompt_classes(spec),
            year_first=year_first,
            year_token=year_token,
            age_edge_min=age_edge_min,
            age_token=age_token,
            age_unknown_id=age_unknown,
            **self._entry_tables(),
            token_class=token_class,
            token_rank=self._ranks,
            base_code=self.base_code,
            token_sex=self.token_sex,
            gap_lo=low[gaps],
            gap_token=gaps,
            gap_repeat_token=one(TokenClass.GAP_REPEAT),
            inner_lo=low[inner],
            inner_token=inner,
            hour_token=hours,
        )

    def _default_tokens(self) -> NDArray[np.int32]:
        plain = self._plain_tokens
        by_kind = {entry.kind: i for i, entry in enumerate(self.codes) if _is_unknown(entry)}
        kinds = ("sex", "race", "visit", "discharge")
        return np.array([plain[by_kind[k]] if k in by_kind else -1 for k in kinds], np.int32)

    @cached_property
    def _plain_tokens(self) -> NDArray[np.int32]:
        """int32 (E,): the token of each entry that has no value."""
        plain = np.full(len(self.codes), -1, np.int32)
        entry = self.column("entry", np.int32)
        without_value = np.flatnonzero((entry >= 0) & (self.column("bin", np.int32) == -1))
        plain[entry[without_value]] = without_value
        return plain

    def _entry_tables(self) -> dict[str, Any]:
        n = len(self.codes)
        bin_token = np.full(n, -1, np.int32)
        text_key: dict[int, int] = {}
        is_split = self.spec.values == "split"
        value_text: dict[int, int] = {}
        for i, token in enumerate(self.tokens):
            if token.token_class == TokenClass.VALUE:
                if token.bin == 0:
                    bin_token[:] = i  # shared by all entries
                elif token.bin <= -2:
                    value_text[-2 - token.bin] = i
            elif token.entry >= 0 and token.bin == 0:
                bin_token[token.entry] = i
            elif token.entry >= 0 and token.bin <= -2:
                text = self.text_index[self.codes[token.entry].texts[-2 - token.bin]]
                text_key[(token.entry << 32) | text] = i
        if is_split:
            for e, entry in enumerate(self.codes):
                for name in entry.texts:
                    number = self.text_index[name]
                    text_key[(e << 32) | number] = value_text[number]
        keys = sorted(text_key)
        offsets = np.zeros(n + 1, np.int64)
        np.cumsum([len(e.edges) for e in self.codes], out=offsets[1:])
        return {
            "entry_plain": self._plain_tokens,
            "entry_bin_token": bin_token,
            "entry_n_bins": np.array([e.n_bins for e in self.codes], np.int32),
            "entry_edge_offset": offsets,
            "edges": np.array([x for e in self.codes for x in e.edges], np.float32),
            "entry_sex": np.array(
                [SEX_INDEX.get(e.sex_specific or "", 0) for e in self.codes], np.uint8
            ),
            "entry_inpatient": np.array([e.is_inpatient for e in self.codes], np.uint8),
            "text_key": np.array(keys, np.int64),
            "text_token": np.array([text_key[k] for k in keys], np.int32),
        }

    @cached_property
    def _ranks(self) -> NDArray[np.int32]:
        """Canonical order: what an expansion brought comes after all that was there before, so
        that the codes of a moment still stand in the order of their ids."""
        bounds = [g.n_tokens for g in self.generations]
        generation = np.searchsorted(bounds, np.arange(len(self.tokens)), side="right")
        keys = [(e.table, e.code, e.unit or "") for e in self.codes]
        if self.spec.preset == "cehr":  # breaks ties by the concept id as text, over all tables
            labels = [self.tokens[i].label for i in self._plain_tokens.tolist()]
            keys = [(label, *key) for label, key in zip(labels, keys, strict=True)]  # type: ignore[misc]
        place = {key: i for i, key in enumerate(sorted(set(keys)))}
        # structural tokens, entry -1, come first
        of_entry = np.array([*(place[key] for key in keys), -1], np.int64)
        entry, bins = self.column("entry", np.int32), self.column("bin", np.int32)
        within = np.where(entry < 0, 0, np.where(bins >= -1, bins + 1, 10_000 - bins))
        rank = np.empty(len(self.tokens), np.int32)
        order = np.lexsort((within, of_entry[entry], generation))  # stable: ties by id
        rank[order] = np.arange(len(self.tokens))
        return rank

    def make_grammar_tables(self) -> GrammarTables:
        """The plain arrays for engine and packer."""
        token_class = self.column("token_class", np.uint8)
        sex_of_entry = [SEX_INDEX.get(e.sex_specific or "", 0) for e in self.codes]
        sex = np.array([*sex_of_entry, 0], np.uint8)[self.column("entry", np.int32)]
        sex_specific = {i: int(sex[i]) for i in np.flatnonzero(sex).tolist()}
        # observation starts on a date: a wait of hours from there is not encoded, so not drawn
        is_short = (token_class == TokenClass.GAP) & (self.column("lo", np.int32) < DAY_MIN)
        refused = {self.state_names.index("start"): is_short}
        state_mask, sex_mask = make_masks(token_class, self.next_state, sex_specific, refused)
        duration_q = np.zeros((len(self.tokens), N_KNOTS), np.int32)
        rule = self.column("rule", np.uint8)
        for i in np.flatnonzero(rule).tolist():
            token = self.tokens[i]
            duration_q[i] = token.q if token.rule == DurationRule.QUANTILE else token.value
        year_first, year_token = self.year_tokens
        age_edge_min, age_token, age_unknown = self.age_tokens
        return GrammarTables(
            token_class=token_class,
            next_state=self.next_state,
            start_state=0,
            state_names=self.state_names,
            state_mask=state_mask,
            sex_mask=sex_mask,
            token_sex=self.token_sex,
            duration_rule=rule,
            duration_q=duration_q,
            duration_lo=self.column("lo", np.int32),
            duration_hi=self.column("hi", np.int32),
            base_code=self.base_code,
            is_moving=rule > 0,
            max_clock_min=self.max_clock_min,
            pad_id=self.single(TokenClass.PAD),
            end_id=self.single(TokenClass.END),
            continued_id=self.single(TokenClass.CONTINUED),
            prompt_classes=_prompt_classes(self.spec),
            year_first=year_first,
            year_token=year_token,
            age_edge_min=age_edge_min,
            age_token=age_token,
            age_unknown_id=age_unknown,
            is_calendar=self.spec.is_calendar,
            days_are_visits=self.spec.preset == "events",
            codes_ascend=self._codes_ascend(),
        )

    def _codes_ascend(self) -> bool:
        """Whether encode puts the codes of a moment in the order of their ids, each once."""
        if self.spec.event_order != "canonical" or self.spec.values == "split":
            return False
        rank = self._ranks[self.ids_of(TokenClass.CODE)]
        return bool((np.diff(rank) > 0).all())

    def to_json(self) -> dict[str, Any]:
        """The vocabulary as plain JSON values; tokens by column."""
        later: dict[str, Any] = {}  # named where there is something only
        if self.generations:
            later["generations"] = [list(generation) for generation in self.generations]
        if self.placements:
            later["placed"] = [list(placement) for placement in self.placements]
        return {
            "spec": self.spec.to_json(),
            "codes": [entry.to_json() for entry in self.codes],
            "tokens": {n: list(c) for n, c in self._token_columns.items() if n != "q"},
            "duration_quantiles": {str(i): list(t.q) for i, t in enumerate(self.tokens) if t.q},
            "grammar": {"states": list(self.state_names), "next_state": self.next_state.tolist()},
            "start": {
                "day_of_year": {str(y): list(q) for y, q in self.start_day_q.items()},
                "age_days": {str(t): list(q) for t, q in self.start_age_q.items()},
                "minute_of_day": list(self.start_minute_q),
            },
            "parent_hash": self.parent_hash,
            **later,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Vocabulary:
        """Reads what `to_json` wrote.

        Raises:
            FormatError: missing parts, or labels or code keys that occur twice.
        """
        try:
            columns = value["tokens"]
            q = value["duration_quantiles"]
            tokens = tuple(
                Token(**dict(zip(columns, row, strict=True)), q=tuple(q.get(str(i), ())))
                for i, row in enumerate(zip(*columns.values(), strict=True))
            )
            start = value["start"]
            vocabulary = cls(
                spec=TokenizerSpec.from_json(value["spec"]),
                codes=tuple(CodeEntry.from_json(entry) for entry in value["codes"]),
                tokens=tokens,
                state_names=tuple(value["grammar"]["states"]),
                next_state=np.array(value["grammar"]["next_state"], np.int8),
                start_day_q={int(y): tuple(k) for y, k in start["day_of_year"].items()},
                start_age_q={int(t): tuple(k) for t, k in start["age_days"].items()},
                start_minute_q=tuple(start["minute_of_day"]),
                generations=tuple(Generation(*g) for g in value.get("generations", ())),
                placements=tuple((t, c, kept) for t, c, kept in value.get("placed", ())),
            )
        except (KeyError, TypeError, ValueError) as error:
            message = f"tokenizer has a missing or malformed part: {error}"
            raise FormatError(message) from None
        vocabulary.check()
        check_parts(vocabulary)
        return vocabulary

    def check(self) -> None:
        """Checks that ids, labels and pointers between the parts make sense.

        Raises:
            FormatError: token labels or code keys that occur twice, or pointers to nowhere.
        """
        labels = self._token_columns["label"]
        if len(set(labels)) != len(labels):
            twice = sorted({label for label in labels if labels.count(label) > 1})[:3]
            message = f"tokenizer has duplicate token labels: {twice}"
            raise FormatError(message)
        if len(self.entry_index) != len(self.codes):
            message = "tokenizer has duplicate code entries"
            raise FormatError(message)
        if any(not -1 <= entry < len(self.codes) for entry in self._token_columns["entry"]):
            message = "tokenizer has tokens whose code does not exist"
            raise FormatError(message)
        if any(("code", t, kept) not in self.dominant_entry for t, _, kept in self.placements):
            message = "tokenizer places codes at codes that do not exist"
            raise FormatError(message)
        if not self.tokens or self.tokens[0].token_class != TokenClass.PAD:
            message = "tokenizer's token 0 is not pad"
            raise FormatError(message)


def _prompt_classes(spec: TokenizerSpec) -> NDArray[np.uint8]:
    return np.array([TokenClass[name.upper()] for name in spec.prompt_fields], np.uint8)


def _is_unknown(entry: CodeEntry) -> bool:
    return UNKNOWN_CODE.get(entry.kind) == entry.code
