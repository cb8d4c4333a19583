"""The same data give the same bytes: token store and tokenizer, whatever the files and threads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.data.same_data import as_csv, as_duckdb, as_parquet, resharded
from tests.tokenize.conftest import content

from chronoward.data import IngestConfig
from chronoward.data.ingest import ingest
from chronoward.data.simulate import simulate
from chronoward.tokenize import tokenize

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Content = dict[str, str]
    Variants = dict[str, tuple[Callable[[Path, Path], Path], dict[str, Any]]]


def _itself(source: Path, _out: Path) -> Path:
    return source


THREADS: Variants = {
    "2 threads": (_itself, {"threads": 2}),
    "7 threads": (_itself, {"threads": 7}),
}
OMOP: Variants = THREADS | {
    "little memory": (_itself, {"memory_limit": "300MB"}),
    "shuffled": (lambda source, out: as_csv(source, out, seed=1), {"threads": 2}),
    "CSV": (as_csv, {}),
    "Parquet": (as_parquet, {"threads": 2}),
    "DuckDB": (lambda source, out: as_duckdb(source, out.with_suffix(".duckdb")), {}),
}
# files are the ledger's tables, so a MEDS ledger is compared where the files are the same
MEDS: Variants = THREADS | {
    "shuffled": (
        lambda source, out: resharded(source, out, subjects_a_file=10**9, seed=1),
        {"threads": 2},
    ),
    "small shards": (lambda source, out: resharded(source, out, subjects_a_file=7), {}),
    "one shard a split": (lambda source, out: resharded(source, out, subjects_a_file=10**9), {}),
}
DATA_SETS = {
    "mimic-iv-demo-omop": OMOP,
    "gibleed-omop": OMOP,
    "mimic-iv-demo-meds": MEDS,
    "cinc2012-a-meds": MEDS,
    "synthea-ma-meds": MEDS,
}


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small simulated clinic with its faults, as OMOP in CSV."""
    folder = tmp_path_factory.mktemp("clinic") / "omop"
    simulate(folder, 40, 11)
    return folder


@pytest.fixture(scope="module")
def sources(clinic: Path) -> dict[str, Path]:
    meds = clinic.parent / "meds"
    ingest(clinic, meds, config=IngestConfig())
    return {"omop": clinic, "meds": meds}


@pytest.fixture(scope="module")
def expected(
    sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Content]:
    folder = tmp_path_factory.mktemp("expected")
    return {form: content(tokenize(src, folder / form).path) for form, src in sources.items()}


def _compare(found: Path, wanted: Content, *, ledger: bool) -> None:
    def kept(files: Content) -> Content:
        return {name: h for name, h in files.items() if ledger or not name.startswith("ledger/")}

    assert kept(content(found)) == kept(wanted)


@pytest.mark.parametrize(
    ("form", "variant"),
    [*(("omop", name) for name in OMOP), *(("meds", name) for name in MEDS)],
)
def test_the_clinic_gives_the_same_bytes(
    sources: dict[str, Path], expected: dict[str, Content], tmp_path: Path, form: str, variant: str
) -> None:
    reshape, options = (OMOP if form == "omop" else MEDS)[variant]
    source = reshape(sources[form], tmp_path / "source")
    store = tokenize(source, tmp_path / "tokens", **options)
    _compare(store.path, expected[form], ledger=form == "omop" or source == sources[form])


@pytest.mark.slow
@pytest.mark.parametrize("name", DATA_SETS)
def test_real_data_give_the_same_bytes(test_data: Path, tmp_path: Path, name: str) -> None:
    wanted = content(tokenize(test_data / name, tmp_path / "expected").path)
    for variant, (reshape, options) in DATA_SETS[name].items():
        if variant == "little memory":
            continue
        source = reshape(test_data / name, tmp_path / variant / "source")
        store = tokenize(source, tmp_path / variant / "tokens", **options)
        _compare(store.path, wanted, ledger=source == test_data / name)
