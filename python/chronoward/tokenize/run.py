"""`tokenize`: every stage leaves whole files behind, so a killed run goes on where it stopped.

Stages: prepare (out of core, by far the longest), tokenizer (fit on the train split, or the one
given), encode, manifest. Encoding is repeated whole after a kill: it costs less than keeping track
of it, and gives the same bytes.
"""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from chronoward import files
from chronoward.ahead import side_by_side
from chronoward.data.origin import as_source
from chronoward.errors import ConfigError, DataError
from chronoward.schema import SPLITS
from chronoward.store import StoreWriter, TokenStore
from chronoward.store.codes import write_codes
from chronoward.store.fingerprints import Fingerprints
from chronoward.store.layout import FINGERPRINTS, MANIFEST, TOKENIZER
from chronoward.tokenize.append import append as append_to
from chronoward.tokenize.counting import count_train
from chronoward.tokenize.job import job, scratch_folder
from chronoward.tokenize.parts import EventShare, check_shard, write_source_files
from chronoward.tokenize.placing import Placing
from chronoward.tokenize.reading import Observation, Reading, check_tokenizer, default_dials, silent
from chronoward.tokenize.reports import REPORT
from chronoward.tokenize.splitting import choose_rule, make_split
from chronoward.tokenizer import Tokenizer, TokenizerSpec, fit_counts

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from chronoward.data import IngestConfig, PreparedEvents
    from chronoward.data.origin import SourceLike
    from chronoward.tokenize.reading import Progress
    from chronoward.tokenize.splitting import SplitOf
    from chronoward.tokenizer.batch import TokenBatch
    from chronoward.tokenizer.inputs import EncodeInput

MAX_LOST_SHARE = 0.5
"""Of a source's events that have no token for one of `_LOSSES`; beyond it there is no store."""
_LOSSES = {
    "unknown_code": "have codes that the given tokenizer does not know: it is another source's",
    "without_visit": "are in no visit, and its preset has a place for those in visits only: use "
    "preset events",
}
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
            n, chosen = self.prepared.n_events, make_spec(self.prepared, spec)
            counts = count_train(
                self.prepared,
                chosen,
                self.split_of,
                scratch=self.work,
                threads=self.threads,
                seen=lambda seen: self.progress("fit", seen, n),
            )
            made = fit_counts(counts, chosen, self.threads)
            if placing is not None:
                made = placing.apply(made, self.prepared.codes)
        else:
            made = given
        # the report first: once the tokenizer is there, this stage is not run again
        files.write_json(self.work / _FIT_REPORT, vars(made.fit_report))
        made.save(path)
        return made

    def encode(self, tokenizer: Tokenizer) -> tuple[StoreWriter, Counter[str]]:
        """Encodes all subjects into shards; what was dropped, rolled up or clamped, by rule.

        Returns:
            The writer, all of whose shards are written, and the counts.
        """
        counts: Counter[str] = Counter()
        seen = Fingerprints()
        n_seen = 0

        def encoded(given: EncodeInput) -> tuple[EncodeInput, NDArray[np.uint64], TokenBatch]:
            return given, tokenizer.fingerprints(given), tokenizer.encode_input(given)

        with StoreWriter(self.out, tokenizer_hash=tokenizer.hash) as writer:
            inputs = self._inputs(tokenizer)
            for given, prints, batch in side_by_side(encoded, inputs, self.threads):
                writer.add(batch, self.split_of(batch.subject_id))
                seen.add(given.subject_id, prints)
                counts.update(batch.counts)
                n_seen += len(given.columns)
                self.progress("encode", n_seen, self.prepared.n_events)
            writer.flush()
        seen.write(self.out / FINGERPRINTS)
        return writer, counts

    def _inputs(self, tokenizer: Tokenizer) -> Iterator[EncodeInput]:
        """Yields what encoding reads."""
        codes, observation = self.prepared.codes, Observation(self.prepared.observation)
        for table in self.prepared.batches():
            if len(table):
                yield tokenizer.input_of(table, observation.of(table), codes)

    def check_fits(self, counts: Counter[str], *, is_given: bool) -> None:
        """Refuses a tokenizer that has no token for most of the source; nothing is left then.

        Args:
            counts: what encoding lost, by rule.
            is_given: it was fitted elsewhere; one of this source may know few codes where most are
                rare, and its report names them.

        Raises:
            DataError: its codes or its visits are not this source's.
        """
        n = self.prepared.n_events
        for rule, why in _LOSSES.items():
            if counts[rule] > MAX_LOST_SHARE * n and (is_given or rule != "unknown_code"):
                for name in SPLITS:
                    shutil.rmtree(self.out / name, ignore_errors=True)
                (self.out / TOKENIZER).unlink()
                (self.out / FINGERPRINTS).unlink()
                message = f"{counts[rule]} of {n} events {why} (at most {MAX_LOST_SHARE:.0%})"
                raise DataError(message)

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
        write_source_files(self.out, self.prepared)
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


def _asked_spec(
    folder: Path, spec: TokenizerSpec | None, given: Tokenizer | None, *, append: bool
) -> TokenizerSpec | None:
    """The spec that decides the dials of ingestion: the store's own where it is appended to."""
    if append and (folder / TOKENIZER).is_file():
        return Tokenizer.load(folder / TOKENIZER).spec
    return spec if given is None else given.spec


def _refuse_with_append(*options: object) -> None:
    if any(option is not None for option in options):
        message = (
            "append uses the store's own tokenizer and splits: leave out preset, spec, tokenizer, "
            "split, concept embeddings and shards"
        )
        raise ConfigError(message)


def tokenize(
    src: SourceLike,
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
    shard_index: int | None = None,
    num_shards: int | None = None,
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
        src: a MEDS or OMOP folder, a DuckDB file, a `postgresql://` URI, a `pyarrow.Table` of MEDS
            events, one a split, or `chronoward.data.MedsTables`.
        out: folder of the store; new, empty, or left unfinished by the same call. Made 0700.
        spec: tokenizer to fit; its calendar is replaced by the source's.
        preset: "compact", "cehr" or "events", where no `spec` is given; the default is compact for
            sources with visits, else events.
        tokenizer: a fitted tokenizer.json to use instead of fitting one.
        split: "source", "hash" or "temporal"; the source's own where it has one, else hash.
        as_: "omop" or "meds" overrides what the source looks like.
        exclude_subjects: file of subject ids to leave out; recorded by its hash.
        ingest: dials of ingestion; CEHR-GPT's (`CEHRGPT_DIALS`) for preset cehr when not given.
        strict: fail where a faulty record had to be quarantined or nulled.
        shard_index: make the part of the store that holds this share of the subjects,
            0 .. num_shards − 1, with a given tokenizer; `merge_parts` joins the parts.
        num_shards: number of shares.
        threads: worker threads.
        memory_limit: of the sort, such as "2GB"; it spills to disk beyond.
        temp_dir: where intermediate files go; inside `out` when not given.
        events_dir: folder of the source's sorted events, kept: what `prepare` left there is used
            again, and what is made there others can use, tasks at the same time too; among the
            intermediate files when not given.
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
        DataError: the source's structure is faulty, it is neither OMOP nor MEDS, or most of its
            events have no token.
        ConfigError: options that contradict each other or the source.
        FormatError: a corrupt file, or a tokenizer of another version.
        StateError: `out` or `events_dir` holds something else, or another process writes `out`.
        OSError: the disk is full; nothing is then half-written under a final name.
    """
    if spec is None and preset is not None:
        spec = TokenizerSpec(preset=preset)
    folder, shard = Path(out), check_shard(shard_index, num_shards)
    placing = Placing.of(concept_embeddings, place_unseen)
    given = _given_tokenizer(tokenizer, spec, placing)
    reading = Reading(
        src=as_source(src),
        as_=as_,
        exclude_subjects=exclude_subjects,
        ingest=ingest or default_dials(_asked_spec(folder, spec, given, append=append)),
        strict=strict,
        threads=threads,
        memory_limit=memory_limit,
        temp_dir=temp_dir,
        events_dir=events_dir,
        progress=progress or silent,
    )
    if append:
        _refuse_with_append(spec, tokenizer, split, placing, shard)
        return append_to(reading, folder)
    if shard is not None and given is None:
        message = "a share of the subjects needs a tokenizer that was fitted on all of them"
        raise ConfigError(message)
    description = {
        "verb": "tokenize",
        **reading.description(),
        "spec": None if spec is None else spec.to_json(),
        "tokenizer": None if given is None else given.hash,
        "split": split,
        "placing": None if placing is None else placing.description(),
        "shard": None if shard is None else list(shard),
    }
    with job(folder, description) as work:
        scratch = scratch_folder(folder, temp_dir)
        if not (folder / MANIFEST).is_file():
            prepared = reading.prepare(scratch)
            rule = choose_rule(prepared, split)
            split_of = make_split(prepared, rule)
            if shard is not None:
                prepared = EventShare(prepared, *shard)
            stages = _Stages(folder, work, prepared, rule, split_of, threads, reading.progress)
            if given is not None:
                check_tokenizer(given, prepared)
            fitted = stages.tokenizer(given, spec, placing)
            writer, counts = stages.encode(fitted)
            stages.check_fits(counts, is_given=given is not None)
            stages.finish(fitted, writer, counts)
        if temp_dir is not None:
            shutil.rmtree(scratch, ignore_errors=True)
    return TokenStore.open(folder)
