"""Draws three equally large samples: synthetic, train and held-out subjects."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from chronoward import splits
from chronoward.data import PreparedEvents, prepare
from chronoward.errors import ConfigError, DataError
from chronoward.evaluation.corpus import Codebook, Corpus, CorpusReader, sample_ids, shuffled

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from numpy.typing import NDArray

    from chronoward.data.origin import Source

    Ints = NDArray[np.int64]

FEWEST_SUBJECTS = 20
DOMAINS = frozenset(
    ("condition", "drug", "procedure", "measurement", "observation", "device", "visit", "death")
)


class TooFewSubjectsError(DataError):
    """A sample is too small for a comparison that means anything."""


class Events(Protocol):
    """What is needed of prepared events."""

    @property
    def has_visits(self) -> bool:
        """Whether the source knows visits."""

    @property
    def codes(self) -> pa.Table:
        """The code table."""

    @property
    def splits(self) -> pa.Table | None:
        """subject_id and split, or None."""

    def batches(self) -> Iterator[pa.Table]:
        """Event tables of whole subjects."""


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """How synthetic subjects are judged."""

    max_subjects: int = 3000
    """Most subjects a sample; all samples have the size of the smallest."""
    n_replicates: int = 100
    """Bootstrap draws of subjects."""
    seed: int = 0
    """Key of the samples and of the bootstrap."""

    def __post_init__(self) -> None:
        if self.max_subjects < FEWEST_SUBJECTS or self.n_replicates < 2:
            message = f"max_subjects must be at least {FEWEST_SUBJECTS}, n_replicates at least 2"
            raise ConfigError(message)


@dataclass(frozen=True)
class Samples:
    """Equally large samples over one codebook."""

    train: Corpus
    held_out: Corpus
    synthetic: Corpus
    codes: Codebook
    labs: Codebook
    described: dict[tuple[str, str], dict[str, Any]]

    @property
    def floor(self) -> Corpus:
        """Train with its codes dealt out at random."""
        return shuffled(self.train, seed=1)


def open_events(source: Source, work_dir: Path) -> Events:
    """Opens a prepared folder, or prepares an OMOP or MEDS source in `work_dir`."""
    if isinstance(source, Path) and (source / "prepared.json").exists():
        return PreparedEvents.open(source)
    return prepare(source, work_dir)


def read_samples(opened: dict[str, Events], config: SyntheticConfig, *, by_split: bool) -> Samples:
    """Draws and reads the three samples.

    Args:
        opened: prepared events of `synthetic`, `train` and `held_out`.
        config: sizes and seeds.
        by_split: train and held-out are splits of one folder.

    Raises:
        TooFewSubjectsError: fewer than 20 subjects in one of them.
    """
    allowed = {name: _allowed(opened[name], name, by_split=by_split) for name in opened}
    ids = {
        name: sample_ids(events.batches(), config.max_subjects, config.seed, allowed[name])
        for name, events in opened.items()
    }
    n = min(len(found) for found in ids.values())
    if n < FEWEST_SUBJECTS:
        sizes = ", ".join(f"{name} {len(found)}" for name, found in sorted(ids.items()))
        message = f"at least {FEWEST_SUBJECTS} subjects are needed in each sample, got {sizes}"
        raise TooFewSubjectsError(message)
    codes, labs = Codebook(), Codebook()
    use_visits = all(events.has_visits for events in opened.values())
    use_table = all(_has_tables(events) for events in opened.values())
    corpora = {}
    for name in ("train", "held_out", "synthetic"):
        events = opened[name]
        sampled = sample_ids(events.batches(), n, config.seed, allowed[name])
        reader = CorpusReader(sampled, codes, labs, use_visits=use_visits, use_table=use_table)
        for batch in events.batches():
            reader.read(batch)
        corpora[name] = reader.finish()
    described = _described(opened, use_table=use_table)
    return Samples(**corpora, codes=codes, labs=labs, described=described)


def _allowed(events: Events, name: str, *, by_split: bool) -> Ints | None:
    if name == "synthetic" or not by_split:
        return None
    ids = [np.unique(np.asarray(batch["subject_id"].to_numpy())) for batch in events.batches()]
    subjects = np.unique(np.concatenate(ids)).astype(np.int64)
    split = (
        splits.hash_split(subjects)
        if events.splits is None
        else splits.source_split(subjects, events.splits)
    )
    return np.asarray(subjects[split == name], dtype=np.int64)


def _has_tables(events: Events) -> bool:
    return any(table != "" for table in events.codes["table"].to_pylist())


def _described(
    opened: dict[str, Events], *, use_table: bool
) -> dict[tuple[str, str], dict[str, Any]]:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for name in ("synthetic", "held_out", "train"):
        for row in (
            opened[name].codes.select(["table", "code", "description", "domain_id"]).to_pylist()
        ):
            key = (row["table"] if use_table else "", row["code"])
            label = row["description"] or row["code"]
            found[key] = {"label": label, "domain": domain_of(row["table"], row["domain_id"])}
    return found


def domain_of(table: str, domain_id: str | None) -> str:
    """What a code is about, in a word a reader knows."""
    name = (domain_id or table.removesuffix("_occurrence").removesuffix("_exposure")).lower()
    return name if name in DOMAINS else "other"
