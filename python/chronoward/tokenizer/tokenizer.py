"""The tokenizer as its users see it: fit, load, save, encode, decode, clock, grammar."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from chronoward import files
from chronoward._core import TokenizerCore
from chronoward.errors import ConfigError, DataError, FormatError
from chronoward.tokenizer.batch import TokenBatch
from chronoward.tokenizer.canonical import canonical
from chronoward.tokenizer.counts import FitCounts, count
from chronoward.tokenizer.decode import DecodedRows, to_table
from chronoward.tokenizer.fit import FitReport, fit_vocabulary
from chronoward.tokenizer.grammar import (
    US_PER_DAY,
    US_PER_MIN,
    GrammarTables,
    TokenClass,
    Violation,
    validate,
)
from chronoward.tokenizer.inputs import EncodeInput, Resolver, prepare_input
from chronoward.tokenizer.time_scheme import DAY_MIN
from chronoward.tokenizer.values import draw
from chronoward.tokenizer.vocabulary import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike, NDArray

    from chronoward.tokenizer.code_entry import CodeEntry
    from chronoward.tokenizer.spec import TokenizerSpec

FORMAT_NAME: Final = "chronoward-tokenizer"
FORMAT_VERSION: Final = 1
_SHIFTED_YEAR: Final = 2000  # synthetic timelines without a year token start in this one


class _TokenColumns:
    """What decode needs of each token."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.entry = vocabulary.column("entry", np.int32)
        self.bin = vocabulary.column("bin", np.int32)


class Tokenizer:
    """Events to tokens and back, by one vocabulary; immutable."""

    def __init__(self, vocabulary: Vocabulary, fit_report: FitReport | None = None) -> None:
        """Use `fit` or `Tokenizer.load`.

        Args:
            vocabulary: everything that tokenizer.json holds.
            fit_report: what fitting dropped; not saved.
        """
        vocabulary.check()
        self.vocabulary = vocabulary
        self.fit_report = fit_report or FitReport((), ())
        self.encode_tables = vocabulary.make_encode_tables()
        self._grammar = vocabulary.make_grammar_tables()
        self._core = TokenizerCore(
            self.encode_tables, _TokenColumns(vocabulary), "age" in vocabulary.spec.prompt_fields
        )
        self._resolvers: list[tuple[pa.Table | None, Resolver]] = []

    @property
    def spec(self) -> TokenizerSpec:
        """What the tokenizer was asked to be."""
        return self.vocabulary.spec

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return len(self.vocabulary.tokens)

    @property
    def codes(self) -> tuple[CodeEntry, ...]:
        """The code entries that `base_code` points to."""
        return self.vocabulary.codes

    @cached_property
    def labels(self) -> list[str]:
        """One label a token."""
        return [token.label for token in self.vocabulary.tokens]

    @property
    def token_class(self) -> NDArray[np.uint8]:
        """uint8 (V,), `TokenClass`."""
        return self._grammar.token_class

    @property
    def base_code(self) -> NDArray[np.int32]:
        """int32 (V,), index in `codes`; -1 for structural tokens and the prompt."""
        return self._grammar.base_code

    @cached_property
    def token_bin(self) -> NDArray[np.int32]:
        """int32 (V,), value bin; -1 without a value, -2 - i for text category i."""
        return np.asarray(self.vocabulary.column("bin", np.int32))

    def _json(self) -> bytes:
        """The canonical JSON without the hash: made anew, megabytes that nobody needs twice."""
        parts = {"format": FORMAT_NAME, "version": FORMAT_VERSION, **self.vocabulary.to_json()}
        return files.canonical_json(parts)

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of the canonical JSON without the hash itself."""
        return hashlib.sha256(self._json()).hexdigest()

    def save(self, path: Path | str) -> None:
        """Writes tokenizer.json: canonical, so equal tokenizers give equal bytes."""
        payload = self._json()
        self.hash = hashlib.sha256(payload).hexdigest()
        files.write_bytes(Path(path), files.with_item(payload, "hash", self.hash))

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """Reads tokenizer.json.

        Raises:
            FormatError: not a tokenizer, another version, a wrong hash, or duplicate ids.
            OSError: the file cannot be read.
        """
        value = files.read_json(Path(path))
        if not isinstance(value, dict) or value.get("format") != FORMAT_NAME:
            message = f"{path} is not a chronoward tokenizer"
            raise FormatError(message)
        if value.get("version") != FORMAT_VERSION:
            message = (
                f"{path} has version {value.get('version')}, this release reads {FORMAT_VERSION}; "
                "fit it again with `chronoward fit`"
            )
            raise FormatError(message)
        said = value.pop("hash", None)
        if said != hashlib.sha256(files.canonical_json(value)).hexdigest():
            message = f"{path} does not match its own hash; it was changed after it was written"
            raise FormatError(message)
        try:
            return cls(Vocabulary.from_json(value))
        except FormatError as error:
            message = f"{path}: {error}"
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # checks come before tables are made, but cannot foresee all that a hand may write
            message = f"{path}: a malformed part ({type(error).__name__})"
        raise FormatError(message)

    def grammar(self) -> GrammarTables:
        """The grammar as plain arrays."""
        return self._grammar

    def encode(
        self,
        events: pa.Table,
        observation: pa.Table,
        *,
        codes: pa.Table | None = None,
        threads: int = 1,
    ) -> TokenBatch:
        """Tokens of an event table.

        Args:
            events: `chronoward.schema.event_schema`, whole subjects, ascending.
            observation: `chronoward.schema.observation_schema`; other subjects are ignored.
            codes: the source's code table; its `parent_codes` let unknown codes be rolled up.
            threads: worker threads; the result does not depend on it.

        Returns:
            Timelines; `counts` says what was dropped, rolled up or clamped, by rule.

        Raises:
            DataError: a table does not have its schema, or subjects do not ascend.
        """
        return self.encode_input(self.input_of(events, observation, codes, threads), threads)

    def input_of(
        self,
        events: pa.Table,
        observation: pa.Table,
        codes: pa.Table | None = None,
        threads: int = 1,
    ) -> EncodeInput:
        """What `encode` reads of its tables: flat columns, keys looked up.

        Raises:
            DataError: a table does not have its schema, or subjects do not ascend.
        """
        return prepare_input(events, observation, self.resolver(codes), threads)

    def encode_input(self, given: EncodeInput, threads: int = 1) -> TokenBatch:
        """As `encode`, of what `input_of` made; several threads may call it at once."""
        encoded = self._core.encode(given, threads)
        return TokenBatch(subject_id=given.subject_id, obs_offsets=given.obs_offsets, **encoded)

    def fingerprints(self, given: EncodeInput) -> NDArray[np.uint64]:
        """One number a subject for all that `encode_input` reads of it.

        The order of events does not matter; equal subjects have equal numbers, with the same
        vocabulary, in every process. Several threads may call it at once.

        Args:
            given: of `input_of`.

        Returns:
            uint64 (n,).
        """
        return self._core.fingerprints(given)

    def resolver(self, codes: pa.Table | None) -> Resolver:
        """What finds code entries for a source with this code table; the last few are kept."""
        for table, resolver in self._resolvers:
            if table is codes:
                return resolver
        rows = {(r["table"], r["code"]): r for r in codes.to_pylist()} if codes is not None else {}
        resolver = Resolver(self.vocabulary, rows)
        self._resolvers = [*self._resolvers[-3:], (codes, resolver)]
        return resolver

    def decode(
        self,
        batch: TokenBatch,
        *,
        value_u: NDArray[np.float64] | None = None,
        threads: int = 1,
    ) -> pa.Table:
        """Events of token timelines.

        Args:
            batch: timelines that the grammar accepts; they may stop anywhere.
            value_u: float64 (T,), uniforms in [0, 1) for values, one a token; 0.5 when not given.
            threads: worker threads; the result does not depend on it.

        Returns:
            An event table in canonical order: `available_time` is the clock, `time` the token's
            event time (the clock in generated timelines), visits numbered from 0, a visit that is
            still open ended at the last clock.

        Raises:
            DataError: value_u does not fit the batch, or holds numbers outside [0, 1).
        """
        uniforms = np.full(batch.n_tokens, 0.5) if value_u is None else np.asarray(value_u)
        if len(uniforms) != batch.n_tokens or ((uniforms < 0) | (uniforms >= 1)).any():
            message = "value_u must hold one number in [0, 1) per token"
            raise DataError(message)
        rows = self.decode_rows(batch, threads=threads)
        return to_table(self.vocabulary, batch, rows, uniforms.astype(np.float64))

    def decode_rows(self, batch: TokenBatch, *, threads: int = 1) -> DecodedRows:
        """What each event of a batch stands for, in token order (see `decode.decode_rows`)."""
        return DecodedRows(**self._core.decode(batch, threads))

    def canonical(self, batch: TokenBatch) -> TokenBatch:
        """Generated timelines in the order that encode gives (see `canonical.canonical`)."""
        return canonical(self.encode_tables, batch)

    def validate(
        self, batch: TokenBatch, *, complete: bool = True, threads: int = 1
    ) -> list[Violation]:
        """The first fault of every timeline that the grammar refuses (see `grammar.validate`)."""
        return validate(self._grammar, batch, complete=complete, threads=threads)

    def decode_observation(self, batch: TokenBatch) -> pa.Table:
        """Observation periods of a batch as `chronoward.schema.observation_schema`."""
        from chronoward.schema import observation_schema

        n = np.diff(batch.obs_offsets)
        origin = np.repeat(batch.origin_us, n)
        starts = origin + batch.obs_start_min.astype(np.int64) * US_PER_MIN
        ends = origin + batch.obs_end_min.astype(np.int64) * US_PER_MIN
        columns = [
            pa.array(np.repeat(batch.subject_id, n)),
            pa.array(starts).cast(pa.timestamp("us")),
            pa.array(ends).cast(pa.timestamp("us")),
        ]
        return pa.Table.from_arrays(columns, schema=observation_schema())

    def clock(
        self, token_id: ArrayLike, start_min: int, u: ArrayLike | None = None
    ) -> NDArray[np.int32]:
        """Clock of every token from durations alone (see `GrammarTables.clock`)."""
        return self._grammar.clock(token_id, start_min, u)

    def token_ids_of(self, codes: Iterable[tuple[str | None, str]]) -> NDArray[np.int32]:
        """Every token, all value bins and units, of some codes.

        Args:
            codes: (table, code); table None means any. Codes that are not known are left out.

        Returns:
            int32, ascending.
        """
        wanted = set(codes)
        entries = [
            i
            for i, entry in enumerate(self.codes)
            if (entry.table, entry.code) in wanted or (None, entry.code) in wanted
        ]
        return np.flatnonzero(np.isin(self.base_code, entries)).astype(np.int32)

    def prompt_at(
        self,
        origin_us: int,
        time_min: int,
        sex_token: int,
        race_token: int,
        *,
        has_birth: bool = True,
    ) -> NDArray[np.int32]:
        """The prompt at a clock (without `continued`).

        Args:
            origin_us: the subject's origin, microseconds since 1970.
            time_min: clock, minutes since origin.
            sex_token: the subject's sex token (ignored where the prompt has no sex).
            race_token: the subject's race token (ignored where the prompt has no race).
            has_birth: False where the origin is not a birth: the age is unknown.
        """
        g = self._grammar
        tokens = {TokenClass.SEX: sex_token, TokenClass.RACE: race_token}
        if TokenClass.YEAR in g.prompt_classes:
            tokens[TokenClass.YEAR] = int(g.year_token_at(origin_us, time_min))
        if TokenClass.AGE in g.prompt_classes:
            tokens[TokenClass.AGE] = (
                int(g.age_token_at(time_min)) if has_birth else g.age_unknown_id
            )
        return np.array([tokens[TokenClass(c)] for c in g.prompt_classes.tolist()], np.int32)

    def prompt(
        self,
        *,
        year: int | None = None,
        age_years: float | None = None,
        sex: str = "U",
        race: str | None = None,
    ) -> NDArray[np.int32]:
        """A prompt from plain values; those that the preset's prompt lacks are ignored.

        Args:
            year: calendar year (the nearest one known is taken).
            age_years: completed or fractional years; None is unknown.
            sex: "F", "M" or "U".
            race: code like "Race/5"; unknown ones become the unknown race.

        Raises:
            ConfigError: a year is needed and missing, or the sex is none of F, M, U.
        """
        v = self.vocabulary
        if sex not in ("F", "M", "U"):
            message = f"sex must be F, M or U; got {sex!r}"
            raise ConfigError(message)
        if "year" in v.spec.prompt_fields and year is None:
            message = "the prompt of this tokenizer needs a year"
            raise ConfigError(message)
        plain = {v.codes[t.entry].code: i for i, t in enumerate(v.tokens) if t.entry >= 0}
        origin = 0 if year is None else (np.datetime64(f"{year:04d}", "us").astype(int))
        minutes = 0 if age_years is None else int(age_years * 365.25 * DAY_MIN)
        return self.prompt_at(
            int(origin) - minutes * US_PER_MIN,
            minutes,
            plain.get(f"Gender/{sex}", -1),
            plain.get(race or "Race/0", plain.get("Race/0", -1)),
            has_birth=age_years is not None,
        )

    def start(self, prompt: ArrayLike, u: ArrayLike) -> tuple[int, int]:
        """Where a synthetic timeline begins, consistent with its year and age tokens.

        The first moment's date is drawn from the year's quantile function, the days since birth
        from the age band's, the time of day from all first moments; the origin follows from them.

        Args:
            prompt: int32, the prompt's tokens.
            u: three uniforms in [0, 1): day of the year, days since birth, minute of the day.

        Returns:
            (origin_us, clock): microseconds since 1970 and minutes since origin.
        """
        v = self.vocabulary
        uniforms = np.asarray(u, np.float64)
        year, age_days = _SHIFTED_YEAR, 0
        day_q = next(iter(v.start_day_q.values()), (0, 364))
        for token in np.asarray(prompt, np.int64).tolist():
            if v.tokens[token].token_class == TokenClass.YEAR:
                year = v.tokens[token].value
                day_q = v.start_day_q[year]
            elif token in v.start_age_q:
                age_days = round(draw(v.start_age_q[token], float(uniforms[1])))
        first = np.datetime64(f"{year:04d}-01-01", "D")
        last_day = int((np.datetime64(f"{year + 1:04d}-01-01", "D") - first).astype(int)) - 1
        day = min(round(draw(day_q, float(uniforms[0]))), last_day)
        minute = round(draw(v.start_minute_q, float(uniforms[2])))
        origin_day = int(first.astype(int)) + day - age_days
        return origin_day * US_PER_DAY, age_days * DAY_MIN + minute


def fit(
    tables: Iterable[pa.Table],
    codes: pa.Table,
    spec: TokenizerSpec,
    observation: pa.Table | None = None,
) -> Tokenizer:
    """Fits a tokenizer on the train split.

    Args:
        tables: event tables, each of whole subjects; their order is no matter.
        codes: the code table.
        spec: what to build.
        observation: periods of observation, of these subjects or more.

    Raises:
        DataError: not event tables, or no events in them.
        ConfigError: no code reaches `spec.min_subjects`.
    """
    watched = observation if spec.waits_from_observation else None
    return fit_counts(count(tables, codes, watched), spec)


def fit_counts(counts: FitCounts, spec: TokenizerSpec, threads: int = 1) -> Tokenizer:
    """Fits a tokenizer on merged counts of the train split.

    Args:
        counts: the counts.
        spec: what to build.
        threads: that may be used; the result does not depend on them.

    Raises:
        ConfigError: no code reaches `spec.min_subjects`.
    """
    vocabulary, report = fit_vocabulary(counts, spec, threads)
    return Tokenizer(vocabulary, report)
