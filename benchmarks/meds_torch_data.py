"""D3 and D7: against meds-torch-data 0.9.0, from the same MEDS files to tokens, and to batches.

D3 counts CPU-seconds of whole processes, children included, on both sides. D7 goes through one
epoch of both loaders in one process each, same batch size and length, the first part of each
timeline; a token is real where it is no padding. Our timelines also have time tokens, so a line of
D7 states as well how many recorded events went by per CPU-second (`event_ratio`).
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from benchmarks.data import N_CODES, write_meds
from benchmarks.peers import ask, environment, versions
from benchmarks.process import Usage, chronoward, run
from benchmarks.record import Measurement, Stopwatch

from chronoward.loader import Loader
from chronoward.meds_torch import MedsTorchConfig, MedsTorchLoader
from chronoward.store import TokenStore
from chronoward.tokenize import verify
from chronoward.tokenizer import TokenClass, Tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator

PEER = "meds_torch_data"
AGAINST = "meds-torch-data 0.9.0"
LENGTHS = (128, 512)
BATCH_SIZE = 64
ROW_TOKENS = 2048

# arguments: folder, length of a row, and the batch size to time ("rows": what the rows hold)
_THEIR_LOADER = """
import json, sys, time
import polars as pl
import torch
from meds_torchdata import MEDSPytorchDataset, MEDSTorchDataConfig

torch.set_num_threads(1)
answer, folder, length, batch_size = sys.argv[1:]
config = MEDSTorchDataConfig(
    tensorized_cohort_dir=folder, max_seq_len=int(length), static_inclusion_mode="omit",
    seq_sampling_strategy="from_start",
)
data = MEDSPytorchDataset(config, split="train")
if batch_size == "rows":
    codes = pl.read_parquet(folder + "/metadata/codes.parquet")
    names = dict(zip(codes["code/vocab_index"].to_list(), codes["code"].to_list()))
    made = {}
    loader = data.get_dataloader(batch_size=16)
    subjects = iter(subject for subject, _ in data.index)
    for batch in loader:
        for code, days in zip(batch.code.tolist(), batch.time_delta_days.tolist()):
            n = sum(c != 0 for c in code)
            made[next(subjects)] = [[names[c] for c in code[:n]], days[:n]]
else:
    loader = data.get_dataloader(batch_size=int(batch_size), shuffle=True)
    n_tokens = sum(int((batch.code != 0).sum()) for batch in loader)
    start = time.process_time()
    for batch in loader:
        pass
    made = {"n_tokens": n_tokens, "cpu": time.process_time() - start}
with open(answer, "w") as file:
    json.dump(made, file)
"""


def write_dataset(folder: Path, n_rows: int) -> None:
    """The rows of D1 and D2 as meds-torch-data takes them: sharded by split, all in train."""
    write_meds(folder, n_rows)
    (folder / "data" / "train").mkdir()
    subjects: list[Any] = []
    for path in sorted((folder / "data").glob("*.parquet")):
        subjects.append(np.unique(pq.read_table(path, columns=["subject_id"])["subject_id"]))
        path.rename(folder / "data" / "train" / path.name)
    (folder / "metadata").mkdir()
    ids = np.concatenate(subjects)
    splits = pa.table({"subject_id": ids, "split": ["train"] * len(ids)})
    pq.write_table(splits, folder / "metadata" / "subject_splits.parquet")
    names = [f"CODE//{i:05d}" for i in range(N_CODES)]
    codes = {
        "code": pa.array(names),
        "description": pa.nulls(len(names), pa.string()),
        "parent_codes": pa.nulls(len(names), pa.list_(pa.string())),
    }
    pq.write_table(pa.table(codes), folder / "metadata" / "codes.parquet")
    (folder / "metadata" / "dataset.json").write_text(json.dumps({"meds_version": "0.4.1"}))


def preprocess(meds: Path, out: Path) -> Usage:
    """Their command, from MEDS to tensors on disk."""
    programs = environment(PEER) / "bin"
    path = f"{programs}{os.pathsep}{os.environ.get('PATH', '')}"
    command = [str(programs / "MTD_preprocess"), f"MEDS_dataset_dir={meds}", f"output_dir={out}"]
    return run(command, PATH=path)


def tokenize(meds: Path, out: Path) -> Usage:
    """Our command, from MEDS to a token store, in a process of its own."""
    return chronoward("tokenize", meds, "--out", out)


Events = list[tuple[int, str]]


def _events(names: list[str], days: list[float], known: set[str]) -> Events:
    """(minutes since the first event that both sides know, code), sorted."""
    clock = np.round(np.cumsum(np.array(days, np.float64)) * 1440).astype(int)
    found = [(int(t), name) for t, name in zip(clock, names, strict=True) if name in known]
    return sorted({(t - found[0][0], name) for t, name in found})


def _check(folder: Path) -> None:
    """Both sides' batches hold the same events at the same minutes, subject by subject."""
    write_dataset(folder / "meds", 20_000)
    preprocess(folder / "meds", folder / "theirs")
    tokenize(folder / "meds", folder / "ours")
    verify(folder / "ours")
    theirs = ask(PEER, _THEIR_LOADER, str(folder / "theirs"), "100000", "rows")
    store = TokenStore.open(folder / "ours")
    tokenizer = Tokenizer.load(store.tokenizer_path)
    is_code = tokenizer.token_class == TokenClass.CODE
    name_of = [tokenizer.codes[i].code if i >= 0 else "" for i in tokenizer.base_code]
    known = {name for name, code in zip(name_of, is_code, strict=True) if code}
    split = store.split("train")
    config = MedsTorchConfig(
        max_seq_len=100_000, seq_sampling_strategy="from_start", static_inclusion_mode="omit"
    )
    loader = MedsTorchLoader(split, tokenizer, config, batch_size=16, shuffle=False)
    if len(theirs) != len(split):
        message = f"{len(theirs)} subjects on their side, {len(split)} on ours"
        raise AssertionError(message)
    subjects = iter(split.subject_id.tolist())
    for batch in loader.batches(0):
        for code, days in zip(batch["code"], batch["time_delta_days"], strict=True):
            names = [name_of[c] for c in code.tolist()]
            ours = _events(names, days.tolist(), known)
            if ours != _events(*theirs[str(next(subjects))], known):
                message = "a subject's events differ between the two loaders"
                raise AssertionError(message)


def _line(metric: str, ours: float, theirs: float, seconds: float, sizes: list[int]) -> Measurement:
    return Measurement(
        id="D3",
        metric=metric,
        value=ours,
        unit="CPU-s",
        against=AGAINST,
        baseline=round(theirs, 3),
        ratio=round(theirs / ours, 3),
        seconds=seconds,
        extra={"n_rows": sizes, "n_codes": N_CODES, "peer_versions": versions(PEER)},
    )


def measure_preprocessing(quick: bool) -> Iterator[Measurement]:
    """Lines of D3: the marginal cost of rows, then the whole cost at the smaller size."""
    sizes = [50_000, 250_000] if quick else [2_000_000, 10_000_000]
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _check(folder)
        for n_rows in sizes:
            meds = folder / f"meds{n_rows}"
            write_dataset(meds, n_rows)
            ours.append(tokenize(meds, folder / f"ours{n_rows}"))
            theirs.append(preprocess(meds, folder / f"theirs{n_rows}"))
    wall = sum(usage.wall for usage in (*ours, *theirs))
    less, more = (side[1].cpu - side[0].cpu for side in (ours, theirs))
    yield _line("marginal", less, more, wall, sizes)
    yield _line("total", ours[0].cpu, theirs[0].cpu, ours[0].wall + theirs[0].wall, sizes[:1])


def _real_tokens(loader: MedsTorchLoader, is_code: torch.Tensor) -> tuple[int, int]:
    """Tokens that are no padding in an epoch, and those among them that are recorded events."""
    n_tokens = n_events = 0
    for batch in loader.batches(0):
        n_tokens += int((batch.code != 0).sum())
        n_events += int(is_code[batch.code].sum())
    return n_tokens, n_events


def _compare(store: TokenStore, theirs_dir: Path, length: int) -> Measurement:
    tokenizer = Tokenizer.load(store.tokenizer_path)
    is_code = torch.from_numpy(tokenizer.token_class == TokenClass.CODE)
    config = MedsTorchConfig(
        max_seq_len=length, seq_sampling_strategy="from_start", static_inclusion_mode="omit"
    )
    loader = MedsTorchLoader(store.split("train"), tokenizer, config, batch_size=BATCH_SIZE)
    n_tokens, n_events = _real_tokens(loader, is_code)
    epochs = max(1, 20_000_000 // n_tokens)  # an epoch is too short for the clock
    with Stopwatch() as watch:
        for epoch in range(epochs):
            for _ in loader.batches(epoch):
                pass
    theirs = ask(PEER, _THEIR_LOADER, str(theirs_dir), str(length), str(BATCH_SIZE))
    rate, their_rate = epochs * n_tokens / watch.cpu, theirs["n_tokens"] / theirs["cpu"]
    return Measurement(
        id="D7",
        metric=f"length_{length}",
        value=rate,
        unit="tokens/CPU-s",
        against=AGAINST,
        baseline=round(their_rate),
        ratio=round(rate / their_rate, 2),
        seconds=watch.wall,
        extra={
            "event_ratio": round(epochs * n_events / watch.cpu / their_rate, 2),
            "batch_size": BATCH_SIZE,
            "max_seq_len": length,
            "n_subjects": len(store.split("train")),
            "epochs": epochs,
            "peer_versions": versions(PEER),
        },
    )


def _packed(store: TokenStore) -> Measurement:
    grammar = Tokenizer.load(store.tokenizer_path).grammar()
    loader = Loader(store.split("train"), grammar, row_tokens=ROW_TOKENS, rows_per_step=16)
    with Stopwatch() as watch:
        n_tokens = sum(rows.n_tokens for epoch in range(4) for rows in loader.batches(epoch))
    return Measurement(
        id="D7",
        metric="packed",
        value=n_tokens / watch.cpu,
        unit="tokens/CPU-s",
        seconds=watch.wall,
        extra={"row_tokens": ROW_TOKENS, "rows_per_step": 16},
    )


def measure_loader(quick: bool) -> Iterator[Measurement]:
    """Lines of D7: our packed rows, then batches of either side by length of a row."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _check(folder)
        write_dataset(folder / "large_meds", 100_000 if quick else 2_000_000)
        tokenize(folder / "large_meds", folder / "large")
        preprocess(folder / "large_meds", folder / "large_theirs")
        store = TokenStore.open(folder / "large")
        yield _packed(store)
        for length in LENGTHS:
            yield _compare(store, folder / "large_theirs", length)


MEASURES = {"D3": measure_preprocessing, "D7": measure_loader}
