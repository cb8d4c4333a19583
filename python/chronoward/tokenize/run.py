"""`tokenize`: every stage leaves whole files behind, so a killed run goes on where it stopped.

Stages: prepare (out of core, by far the longest), tokenizer (fit on the train split, or the one
given), encode, manifest. Encoding is repeated whole after a kill: it costs less than keeping track
of it, and gives the same bytes.
"""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from chronoward import files
from chronoward.data import IngestConfig, PreparedEvents
from chronoward.errors import ConfigError
from chronoward.store import StoreWriter, TokenStore
from chronoward.store.codes import write_codes
from chronoward.store.fingerprints import Fingerprints
from chronoward.store.layout import FINGERPRINTS, MANIFEST, TOKENIZER
from chronoward.tokenize.append import append as append_to
from chronoward.tokenize.job import job, scratch_folder
from chronoward.tokenize.placing import Placing
from chronoward.tokenize.reading import Observation, Reading, check_tokenizer
from chronoward.tokenize.reports import REPORT, copy_ledger
from chronoward.tokenize.splitting import choose_rule, make_split
from chronoward.tokenizer import Tokenizer, TokenizerSpec, fit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from chronoward.tokenize.reading import Progress
    from chronoward.tokenize.splitting import SplitOf

_FIT_REPORT = "fit_report.json"


def make_spec(prepared: PreparedEvents, spec: TokenizerSpec | None) -> TokenizerSpec:
    """The spec to fit: the one asked for, else `compact` (`events` for a source without visits).

    The calendar is always the source's.
    """
    if spec is None:
        return TokenizerSpec(
            preset="compact" if prepared.has_visits else "events", calendar=prepared.calendar
        )
    return replace(spec, calendar=prepared.calendar)


def train_tables(
    prepared: PreparedEvents, split_of: SplitOf, seen: Callable[[int], None] = lambda _: None
) -> Iterator[pa.Table]:
    """The event tables of the train split; `seen` is told the number of events read."""
    n_seen = 0
    for table in prepared.batches():
        ids = table["subject_id"].to_numpy()
        starts = np.flatnonzero(np.diff(ids, prepend=ids[0] - 1)) if len(ids) else ids
        is_train = split_of(ids[starts]) == 0
        lengths = np.diff(np.append(starts, len(ids)))
        n_seen += len(table)
        seen(n_seen)
        yield table.filter(pa.array(np.repeat(is_train, lengths)))


@dataclass(frozen=True)
class _Stages:
    """What the stages of one run share."""

    out: Path
    work: Path
    prepared: PreparedEvents
    rule: str
    split_of: SplitOf
    threads: int
    progress: Progress

    def tokenizer(
        self, given: Tokenizer | None, spec: TokenizerSpec | None, placing: Placing | None
    ) -> Tokenizer:
        """The tokenizer, written to OUT; the one that an earlier run left is used again."""
        path = self.out / TOKENIZER
        if path.is_file():
            return Tokenizer.load(path)
        if given is None:
            n = self.prepared.n_events
            tables = train_tables(
                self.prepared, self.split_of, lambda seen: self.progress("fit", seen, n)
            )
            prepared = self.prepared
            made = fit(tables, prepared.codes, make_spec(prepared, spec), prepared.observation)
            if placing is not None:
                made = placing.apply(made, prepared.codes)
        else:
            made = given
        # the report first: once the tokenizer is there, this stage is not run again
        files.write_json(self.work / _FIT_REPORT, asdict(made.fit_report))
        made.save(path)
        return made

    def encode(self, tokenizer: Tokenizer) -> tuple[StoreWriter, Counter[str]]:
        """Encodes all subjects into shards; what was dropped, rolled up or clamped, by rule."""
        writer = StoreWriter(self.out, tokenizer_hash=tokenizer.hash)
        codes, observation = self.prepared.codes, Observation(self.prepared.observation)
        counts: Counter[str] = Counter()
        seen = Fingerprints()
        n_seen = 0
        for table in self.prepared.batches():
            if len(table):
                given = tokenizer.input_of(table, observation.of(table), codes)
                batch = tokenizer.encode_input(given, self.threads)
                writer.add(batch, self.split_of(batch.subject_id))
                seen.add(given.subject_id, tokenizer.fingerprints(given, codes))
                counts.update(batch.counts)
            n_seen += len(table)
            self.progress("encode", n_seen, self.prepared.n_events)
        seen.write(self.out / FINGERPRINTS)
        return writer, counts

    def finish(self, tokenizer: Tokenizer, writer: StoreWriter, counts: Counter[str]) -> None:
        """Code table, report and ledger, then the manifest."""
        write_codes(self.out, self.prepared.codes, tokenizer)
        report = self.prepared.report
        report["tokenizer"] = {
            "split_rule": self.rule,
            "counts": dict(sorted(counts.items())),
            **files.read_json(self.work / _FIT_REPORT),
        }
        files.write_json(self.out / REPORT, report)
        copy_ledger(self.prepared, self.out)
        writer.finish(
            calendar=self.prepared.calendar,
            observation=report["observation"],
            split_rule=self.rule,
            counts=dict(sorted(counts.items())),
        )


def _given_tokenizer(
    path: Path | str | None, spec: TokenizerSpec | None, placing: Placing | None
) -> Tokenizer | None:
    if path is None:
        return None
    if spec is not None:
        message = "a given tokenizer has its own preset: leave out preset and spec"
        raise ConfigError(message)
    if placing is not None:
        message = "a given tokenizer is used as it is; `chronoward expand` places unseen codes"
        raise ConfigError(message)
    return Tokenizer.load(path)


def _refuse_with_append(*options: object) -> None:
    if any(option is not None for option in options):
        message = (
            "append uses the store's own tokenizer and splits: leave out preset, spec, tokenizer, "
            "split and concept embeddings"
        )
        raise ConfigError(message)


def tokenize(
    src: Path | str,
    out: Path | str,
    *,
    spec: TokenizerSpec | None = None,
    preset: str | None = None,
    tokenizer: Path | str | None = None,
    split: str | None = None,
    as_: str | None = None,
    exclude_subjects: Path | None = None,
    ingest: IngestConfig | None = None,
    strict: bool = False,
    threads: int = 1,
    memory_limit: str = "2GB",
    temp_dir: Path | None = None,
    events_dir: Path | None = None,
    concept_embeddings: Path | None = None,
    place_unseen: float | None = None,
    append: bool = False,
    progress: Progress | None = None,
) -> TokenStore:
    """Makes a token store from an OMOP or MEDS source.

    A run that was killed goes on when it is called again with the same arguments, and ends with
    the bytes of an uninterrupted one. Threads, memory limit and folders do not change them either.

    Args:
        src: a MEDS folder, an OMOP folder, or what else `recognize` knows.
        out: folder of the store; new, empty, or left unfinished by the same call. Made 0700.
        spec: tokenizer to fit; its calendar is replaced by the source's.
        preset: "compact", "cehr" or "events", where no `spec` is given; the default is compact for
            sources with visits, else events.
        tokenizer: a fitted tokenizer.json to use instead of fitting one.
        split: "source", "hash" or "temporal"; the source's own where it has one, else hash.
        as_: "omop" or "meds" overrides what the source looks like.
        exclude_subjects: file of subject ids to leave out; recorded by its hash.
        ingest: dials of ingestion.
        strict: fail where a faulty record had to be quarantined or nulled.
        threads: worker threads.
        memory_limit: of the sort, such as "2GB"; it spills to disk beyond.
        temp_dir: where intermediate files go; inside `out` when not given.
        events_dir: folder of the source's sorted events, kept: what `prepare` left there is used
            again, and what is made there others can use; among the intermediate files when not
            given.
        concept_embeddings: Parquet file of `code` and `vector`, for `place_unseen`.
        place_unseen: codes that fitting does not keep, and have an embedding, are encoded as the
            kept code of their table whose embedding has the largest cosine with theirs, if this or
            more.
        append: bring the store in `out` up to date with the source, by its own tokenizer and split
            rule: new and changed subjects are encoded, files of the store stay as they are, and
            subjects that the source lacks are kept (excluded ones count no more). The source is
            read whole, or may hold the new and changed subjects only.
        progress: is told (stage, done, total); total 0 where it is not known.

    Returns:
        The store, opened.

    Raises:
        DataError: the source's structure is faulty, or it is neither OMOP nor MEDS.
        ConfigError: options that contradict each other or the source.
        FormatError: a corrupt file, or a tokenizer of another version.
        StateError: `out` or `events_dir` holds something else, or another process writes `out`.
        OSError: the disk is full; nothing is then half-written under a final name.
    """
    folder = Path(out)
    reading = Reading(
        src=Path(src),
        as_=as_,
        exclude_subjects=exclude_subjects,
        ingest=ingest or IngestConfig(),
        strict=strict,
        threads=threads,
        memory_limit=memory_limit,
        temp_dir=temp_dir,
        events_dir=events_dir,
        progress=progress or (lambda _stage, _done, _total: None),
    )
    placing = Placing.of(concept_embeddings, place_unseen)
    if append:
        _refuse_with_append(spec or preset, tokenizer, split, placing)
        return append_to(reading, folder)
    if spec is None and preset is not None:
        spec = TokenizerSpec(preset=preset)
    given = _given_tokenizer(tokenizer, spec, placing)
    description = {
        "verb": "tokenize",
        **reading.description(),
        "spec": None if spec is None else spec.to_json(),
        "tokenizer": None if given is None else given.hash,
        "split": split,
        "placing": None if placing is None else placing.description(),
    }
    with job(folder, description) as work:
        scratch = scratch_folder(folder, temp_dir)
        if not (folder / MANIFEST).is_file():
            prepared = reading.prepare(scratch)
            rule = choose_rule(prepared, split)
            split_of = make_split(prepared, rule)
            stages = _Stages(folder, work, prepared, rule, split_of, threads, reading.progress)
            if given is not None:
                check_tokenizer(given, prepared)
            fitted = stages.tokenizer(given, spec, placing)
            stages.finish(fitted, *stages.encode(fitted))
        if temp_dir is not None:
            shutil.rmtree(scratch, ignore_errors=True)
    return TokenStore.open(folder)
