"""Fitting without encoding, in one go or in shards: counts of some subjects, then their merge.

A file of counts holds rare codes, so it is patient data (0600 by the umask of the verbs); the
tokenizer made of it is not. It also carries the spec it was counted for, so that shards of
different fits are not merged.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from chronoward import files
from chronoward.data.origin import as_source
from chronoward.errors import ConfigError, FormatError
from chronoward.schema import code_schema
from chronoward.tokenize.counting import count_train
from chronoward.tokenize.parts import check_shard
from chronoward.tokenize.placing import Placing
from chronoward.tokenize.reading import Reading, default_dials, silent
from chronoward.tokenize.run import make_spec
from chronoward.tokenize.splitting import choose_rule, make_split
from chronoward.tokenizer import FitCounts, Tokenizer, TokenizerSpec, fit_counts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chronoward.data import IngestConfig
    from chronoward.data.origin import SourceLike
    from chronoward.tokenize.reading import Progress

_SPEC_KEY = b"chronoward-spec"


def _save_counts(counts: FitCounts, spec: TokenizerSpec, path: Path) -> None:
    """The counts with their spec beside them in the file's metadata."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        plain = Path(folder) / "counts"
        counts.save(plain)
        table = pa.ipc.open_file(plain.read_bytes()).read_all()
    metadata = {**table.schema.metadata, _SPEC_KEY: json.dumps(spec.to_json()).encode()}
    table = table.replace_schema_metadata(metadata)
    with files.atomic_path(path) as temporary, pa.ipc.new_file(temporary, table.schema) as sink:
        sink.write_table(table)


def _read_spec(path: Path) -> TokenizerSpec:
    try:
        metadata = pa.ipc.open_file(path.read_bytes()).schema.metadata or {}
        return TokenizerSpec.from_json(json.loads(metadata[_SPEC_KEY]))
    except (pa.ArrowInvalid, KeyError, ValueError):
        message = f"{path} is not a file of counts that `chronoward fit` wrote"
        raise FormatError(message) from None


def fit(
    src: SourceLike,
    out: Path | str,
    *,
    spec: TokenizerSpec | None = None,
    split: str | None = None,
    as_: str | None = None,
    exclude_subjects: Path | None = None,
    ingest: IngestConfig | None = None,
    concept_embeddings: Path | None = None,
    place_unseen: float | None = None,
    shard_index: int | None = None,
    num_shards: int | None = None,
    threads: int = 1,
    memory_limit: str = "2GB",
    temp_dir: Path | None = None,
    events_dir: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Fits a tokenizer on the train split of a source and writes it to a file.

    Args:
        src: a MEDS or OMOP source, as of `tokenize`.
        out: tokenizer.json, or with shards a file of counts for `merge`.
        spec: what to build; the calendar is the source's.
        split: "source", "hash" or "temporal".
        as_: "omop" or "meds".
        exclude_subjects: file of subject ids to leave out.
        ingest: dials of ingestion; CEHR-GPT's for preset cehr when not given.
        concept_embeddings: Parquet file of `code` and `vector`, for `place_unseen`.
        place_unseen: codes that are not kept, and have an embedding, are encoded as the kept code
            of their table whose embedding has the largest cosine with theirs, if this or more.
        shard_index: count this share of the subjects only, 0 .. num_shards − 1.
        num_shards: number of shares.
        threads: worker threads.
        memory_limit: of the sort.
        temp_dir: where intermediate files go; beside `out` when not given.
        events_dir: folder of the source's sorted events, kept, as in `tokenize`.
        progress: is told (stage, done, total).

    Raises:
        ConfigError: an option is out of range or contradicts the source.
        DataError: the source's structure is faulty.
        OSError: the disk is full.
    """
    shard = check_shard(shard_index, num_shards)
    placing = Placing.of(concept_embeddings, place_unseen)
    if shard is not None and placing is not None:
        message = "give concept_embeddings and place_unseen to merge, not to its shards"
        raise ConfigError(message)
    path = Path(out)
    reading = Reading(
        src=as_source(src),
        as_=as_,
        exclude_subjects=exclude_subjects,
        ingest=ingest or default_dials(spec),
        threads=threads,
        memory_limit=memory_limit,
        temp_dir=temp_dir,
        events_dir=events_dir,
        progress=progress or silent,
    )
    with tempfile.TemporaryDirectory(dir=temp_dir or path.parent, prefix=".fit-") as folder:
        prepared = reading.prepare(Path(folder))
        split_of = make_split(prepared, choose_rule(prepared, split))
        n = prepared.n_events
        chosen = make_spec(prepared, spec)
        counts = count_train(
            prepared,
            chosen,
            split_of,
            scratch=Path(folder),
            shard=shard,
            threads=threads,
            seen=lambda seen: reading.progress("fit", seen, n),
        )
        if shard is None:
            fitted = fit_counts(counts, chosen, threads)
            if placing is not None:
                fitted = placing.apply(fitted, prepared.codes)
            fitted.save(path)
        else:
            _save_counts(counts, chosen, path)
    return path


def merge(
    paths: Sequence[Path],
    out: Path | str,
    *,
    concept_embeddings: Path | None = None,
    place_unseen: float | None = None,
) -> Tokenizer:
    """Merges files of counts into a tokenizer; their order does not matter.

    Args:
        paths: files of `fit` with shards.
        out: tokenizer.json to write.
        concept_embeddings: as in `fit`.
        place_unseen: as in `fit`.

    Raises:
        ConfigError: no files, or files that were counted for different specs.
        FormatError: a file is not one of counts.
        OSError: a file cannot be read or written.
    """
    placing = Placing.of(concept_embeddings, place_unseen)
    if not paths:
        message = "there are no files to merge"
        raise ConfigError(message)
    spec = _read_spec(paths[0])
    counts = FitCounts()
    for path in paths:
        if _read_spec(path) != spec:
            message = f"{path} was counted for another tokenizer spec than {paths[0]}"
            raise ConfigError(message)
        counts.merge(FitCounts.load(path))
    tokenizer = fit_counts(counts, spec)
    if placing is not None:
        rows = pa.Table.from_pylist(list(counts.codes.values()), schema=code_schema())
        tokenizer = placing.apply(tokenizer, rows)
    tokenizer.save(Path(out))
    return tokenizer
