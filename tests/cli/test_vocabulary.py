"""How a vocabulary grows, as it is typed: expand, append, concept embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from tests.cli.test_tokenize import run
from tests.tokenize.conftest import write_meds

from chronoward.errors import ConfigError
from chronoward.store import TokenStore
from chronoward.tokenize import expand, tokenize
from chronoward.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path


def other_site(folder: Path) -> Path:
    """The clinic of `write_meds` under other names: one code is new, one is new and rare."""
    write_meds(folder)
    for path in (folder / "data").iterdir():
        table = pq.read_table(path)
        code = pc.replace_substring(table["code"], "DX//0", "DX//new")
        is_rare = pc.and_(pc.equal(table["subject_id"], 7), pc.equal(code, "DX//1"))
        code = pc.if_else(is_rare, "DX//rare", code)
        place = table.schema.get_field_index("code")
        pq.write_table(table.set_column(place, "code", code), path)
    return folder


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("sites")
    return write_meds(folder / "first"), other_site(folder / "second")


@pytest.fixture(scope="module")
def tokens(sites: tuple[Path, Path]) -> Path:
    return tokenize(sites[0], sites[0].parent / "tokens").path


@pytest.fixture
def embeddings(tmp_path: Path) -> Path:
    columns = {"code": ["DX//rare", "DX//2", "DX//3"], "vector": [[1.0, 0.1], [1, 0], [0, 1]]}
    pq.write_table(pa.table(columns), tmp_path / "embeddings.parquet")
    return tmp_path / "embeddings.parquet"


def test_expand_appends_the_other_site_s_codes_and_says_so(
    sites: tuple[Path, Path], tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "grown.json"
    before = (tokens / "tokenizer.json").read_bytes()
    assert run("expand", tokens / "tokenizer.json", sites[1], "--out", out) == 0
    assert (tokens / "tokenizer.json").read_bytes() == before
    parent, grown = Tokenizer.load(tokens / "tokenizer.json"), Tokenizer.load(out)
    assert grown.vocabulary.parent_hash == parent.hash
    assert grown.labels[: parent.vocab_size] == parent.labels
    assert grown.labels[parent.vocab_size :] == ["DX//new"]
    said = capsys.readouterr().out
    assert f"{parent.vocab_size:,} tokens and 1 new ones" in said
    assert "0 rolled up, 0 placed, 1 dropped" in said
    again = tokenize(sites[0], tmp_path / "again", tokenizer=out)
    old = TokenStore.open(tokens)
    for name in ("train", "tuning", "held_out"):
        ours, theirs = again.split(name), old.split(name)
        assert ours.subject_id.tolist() == theirs.subject_id.tolist()
        for i in range(len(ours)):
            assert ours.timeline(i).token_id.tolist() == theirs.timeline(i).token_id.tolist()


def test_rare_codes_are_placed_by_their_embeddings_and_counted(
    sites: tuple[Path, Path], tokens: Path, embeddings: Path, tmp_path: Path
) -> None:
    near = ["--concept-embeddings", str(embeddings), "--place-unseen", "0.9"]
    assert run("expand", tokens / "tokenizer.json", sites[1], "--out", tmp_path / "e", *near) == 0
    assert run("fit", sites[1], "--out", tmp_path / "f", *near) == 0
    counts = [tmp_path / "c0", tmp_path / "c1"]
    for index, path in enumerate(counts):
        shard = ["--shard-index", str(index), "--num-shards", "2"]
        assert run("fit", sites[1], "--out", path, *shard) == 0
        assert run("fit", sites[1], "--out", tmp_path / "x", *shard, *near) == 2
    assert run("merge", *counts, "--out", tmp_path / "m", *near) == 0
    assert (tmp_path / "m").read_bytes() == (tmp_path / "f").read_bytes()
    assert run("tokenize", sites[1], "--out", tmp_path / "t", *near) == 0
    store = TokenStore.open(tmp_path / "t")
    assert store.tokenizer_hash == Tokenizer.load(tmp_path / "f").hash
    assert store.manifest["counts"]["placed"] >= 1
    assert "unknown_code" not in store.manifest["counts"]
    for name in ("e", "f"):
        placements = Tokenizer.load(tmp_path / name).vocabulary.placements
        assert placements == (("", "DX//rare", "DX//2"),)


def test_a_tokenizer_whose_places_alone_changed_names_its_parent(
    sites: tuple[Path, Path], tokens: Path, embeddings: Path, tmp_path: Path
) -> None:
    parent = Tokenizer.load(tokens / "tokenizer.json")
    grown = expand(
        tokens / "tokenizer.json",
        sites[0],
        tmp_path / "grown.json",
        concept_embeddings=embeddings,
        place_unseen=0.9,
    )
    assert grown.vocab_size == parent.vocab_size
    assert grown.hash != parent.hash == grown.vocabulary.parent_hash
    assert Tokenizer.load(tmp_path / "grown.json").hash == grown.hash


def test_options_of_placing_go_together(
    sites: tuple[Path, Path], tokens: Path, embeddings: Path, tmp_path: Path
) -> None:
    for option in ({"concept_embeddings": embeddings}, {"place_unseen": 0.8}):
        with pytest.raises(ConfigError, match="go together"):
            tokenize(sites[0], tmp_path / "t", **option)
    both = {"concept_embeddings": embeddings, "place_unseen": 0.8}
    with pytest.raises(ConfigError, match="chronoward expand"):
        tokenize(sites[0], tmp_path / "t", tokenizer=tokens / "tokenizer.json", **both)
    with pytest.raises(ConfigError, match="store's own tokenizer"):
        tokenize(sites[0], tokens, append=True, **both)
    assert not (tmp_path / "t").exists()


def test_append_says_what_it_did(
    sites: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tokens"
    assert run("tokenize", sites[0], "--out", out) == 0
    assert run("tokenize", sites[0], "--out", out, "--append") == 0
    assert "nothing was ever appended" in capsys.readouterr().out
    assert run("tokenize", sites[1], "--out", out, "--append") == 0
    said = capsys.readouterr().out
    assert "append 1: " in said
    assert "changed" in said
    assert "rows superseded in all" in said
    assert run("verify", out) == 0
    assert run("tokenize", sites[0], "--out", tmp_path / "none", "--append") == 1


def test_the_expanded_tokenizer_of_another_calendar_is_refused(
    sites: tuple[Path, Path], tokens: Path, tmp_path: Path
) -> None:
    from chronoward.data import IngestConfig

    with pytest.raises(ConfigError, match="for a real calendar"):
        expand(
            tokens / "tokenizer.json",
            sites[1],
            tmp_path / "x",
            ingest=IngestConfig(calendar="shifted"),
        )
    assert list(tmp_path.iterdir()) == []
