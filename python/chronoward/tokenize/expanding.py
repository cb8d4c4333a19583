"""`expand`: a tokenizer grown by the codes of another source."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from chronoward.data.origin import as_source
from chronoward.tokenize.counting import count_train
from chronoward.tokenize.placing import Placing
from chronoward.tokenize.reading import Reading, check_tokenizer, default_dials, silent
from chronoward.tokenize.splitting import choose_rule, make_split
from chronoward.tokenizer import Tokenizer
from chronoward.tokenizer.expand import as_child
from chronoward.tokenizer.expand import expand as expanded

if TYPE_CHECKING:
    from chronoward.data import IngestConfig
    from chronoward.data.origin import SourceLike
    from chronoward.tokenize.reading import Progress


def expand(
    tokenizer: Path | str,
    src: SourceLike,
    out: Path | str,
    *,
    split: str | None = None,
    as_: str | None = None,
    exclude_subjects: Path | None = None,
    ingest: IngestConfig | None = None,
    concept_embeddings: Path | None = None,
    place_unseen: float | None = None,
    threads: int = 1,
    memory_limit: str = "2GB",
    temp_dir: Path | None = None,
    progress: Progress | None = None,
) -> Tokenizer:
    """Appends the codes that a source's train split has and a tokenizer lacks; never renumbers.

    Args:
        tokenizer: tokenizer.json to grow; it stays as it is.
        src: a MEDS or OMOP source.
        out: the tokenizer.json to write. It names the other's hash.
        split: "source" or "hash": which subjects are the train split.
        as_: "omop" or "meds".
        exclude_subjects: file of subject ids to leave out.
        ingest: dials of ingestion.
        concept_embeddings: Parquet file of `code` and `vector`, for `place_unseen`.
        place_unseen: codes that are still not kept, and have an embedding, are encoded as the kept
            code of their table whose embedding has the largest cosine with theirs, if this or more.
        threads: worker threads.
        memory_limit: of the sort.
        temp_dir: where intermediate files go; beside `out` when not given.
        progress: is told (stage, done, total).

    Returns:
        The tokenizer, as written.

    Raises:
        ConfigError: an option is out of range, or the calendars differ.
        DataError: the source's structure is faulty, or the file of embeddings is.
        FormatError: not a tokenizer of ours.
        OSError: the disk is full.
    """
    parent = Tokenizer.load(tokenizer)
    placing = Placing.of(concept_embeddings, place_unseen)
    path = Path(out)
    reading = Reading(
        src=as_source(src),
        as_=as_,
        exclude_subjects=exclude_subjects,
        ingest=ingest or default_dials(parent.spec),
        threads=threads,
        memory_limit=memory_limit,
        temp_dir=temp_dir,
        progress=progress or silent,
    )
    with tempfile.TemporaryDirectory(dir=temp_dir or path.parent, prefix=".expand-") as folder:
        prepared = reading.prepare(Path(folder))
        check_tokenizer(parent, prepared)
        split_of = make_split(prepared, choose_rule(prepared, split))
        n = prepared.n_events
        counts = count_train(
            prepared,
            parent.spec,
            split_of,
            scratch=Path(folder),
            threads=threads,
            seen=lambda seen: reading.progress("fit", seen, n),
        )
        grown = expanded(parent, counts)
        if placing is not None:
            grown = as_child(placing.apply(grown, prepared.codes), parent)
    grown.save(path)
    return grown
