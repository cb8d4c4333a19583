"""A real PostgreSQL server holds the clinic (CONTRIBUTING says how it is started)."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from chronoward import cli, tokenize
from chronoward.data import prepare
from chronoward.data.cdm import tables as cdm_tables
from chronoward.data.look_source import look
from chronoward.data.postgres import PostgresSource, Session
from chronoward.data.simulate import simulate
from chronoward.data.source import find_tables
from chronoward.errors import ConfigError, DataError, StateError

from .postgres_server import PASSWORD, USER, Server, find_binaries, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow
TYPES = {"integer": "bigint", "float": "numeric", "date": "date", "datetime": "timestamp"}


def _sql(server: Server, *statements: str) -> None:
    command = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", server.uri]
    done = subprocess.run(
        [*command, *(part for sql in statements for part in ("-c", sql))],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    binaries = find_binaries()
    if binaries is None or shutil.which("psql") is None:
        pytest.skip("no PostgreSQL server is installed (apt-get install postgresql)")
    pytest.importorskip("adbc_driver_postgresql", reason="the extra [postgres] is not installed")
    with running(binaries) as started:
        yield started


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clinic") / "omop"
    simulate(folder, 120, 4)
    return folder


@pytest.fixture(scope="module")
def database(server: Server, clinic: Path) -> Server:
    """The clinic in schema `cdm`, its concepts in `Vocab`, typed as OHDSI's own DDL types them.

    Columns in which the clinic plants what the type cannot hold (30 February) stay text.
    """
    _sql(server, "CREATE SCHEMA cdm", 'CREATE SCHEMA "Vocab"')
    _sql(server, 'CREATE TABLE cdm."Site_Notes" (person_id integer, word text)')
    for name, (file,) in find_tables(clinic).items():
        if name not in cdm_tables():
            continue
        table = f'"Vocab".{name}' if name == "concept" else f"cdm.{name}"
        header = file.read_text(encoding="utf-8").split("\n", 1)[0].replace('"', "").split(",")
        load = f"\\copy {table} FROM '{file}' (FORMAT csv, HEADER true)"
        typed = [
            f"DO $$ BEGIN ALTER TABLE {table} ALTER COLUMN {column.column} TYPE "
            f"{TYPES[column.type]} USING NULLIF({column.column}, '')::{TYPES[column.type]}; "
            "EXCEPTION WHEN data_exception THEN NULL; END $$"
            for column in cdm_tables()[name]
            if column.type in TYPES and column.column in header
        ]
        columns = ", ".join(f"{column} text" for column in header)
        _sql(server, f"CREATE TABLE {table} ({columns})", load, *typed)
    return server


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_database_gives_the_store_of_its_csv_folder(
    database: Server, clinic: Path, tmp_path: Path
) -> None:
    tokenize(clinic, tmp_path / "csv")
    tokenize(f"{database.uri}&schema=cdm,Vocab", tmp_path / "database")
    from_csv, from_database = _files(tmp_path / "csv"), _files(tmp_path / "database")
    differing = {name for name in from_csv if from_csv[name] != from_database.get(name)}
    assert set(from_csv) == set(from_database)
    # the report names the site's own table as not read, which the folder does not have
    assert differing == {"ingest_report.json"}
    report = json.loads(from_database["ingest_report.json"])
    report["tables_not_read"].remove("site_notes")
    assert report == json.loads(from_csv["ingest_report.json"])


def test_a_look_at_a_database_counts_what_a_look_at_its_files_counts(
    database: Server, clinic: Path
) -> None:
    files, remote = look(clinic), look(f"{database.uri}&schema=cdm,Vocab")
    counted = {trap.what: trap.n for trap in files.traps if not trap.is_estimate}
    assert {trap.what: trap.n for trap in remote.traps if trap.what in counted} == counted
    assert (remote.n_records, remote.n_tokens) == (files.n_records, files.n_tokens)
    assert remote.follow_up_years == pytest.approx(files.follow_up_years)
    tables = {table.name: table for table in remote.tables}
    for table in files.tables:
        mine = tables[table.name]
        assert (mine.n_rows, mine.mapped, mine.last) == (table.n_rows, table.mapped, table.last)
    assert any("site_notes" in note for note in remote.notes)


def test_every_verb_with_a_source_takes_the_address(database: Server, tmp_path: Path) -> None:
    uri = f"{database.uri}&schema=cdm,Vocab"
    for verb, *options in (
        ("fit", "--out", str(tmp_path / "tokenizer.json")),
        ("ingest", "--out", str(tmp_path / "meds")),
        ("inspect",),
        ("cohort", "--out", str(tmp_path / "cohort"), "--outcome", "mortality"),
    ):
        result = CliRunner().invoke(cli.app, [verb, uri, *options])
        assert result.exit_code == 0, (verb, result.output)
    assert (tmp_path / "meds" / "metadata" / "dataset.json").is_file()


def test_a_password_is_written_nowhere(
    database: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    address = f"127.0.0.1:{database.port}/postgres?schema=cdm,Vocab"
    uri = f"postgresql://{USER}:{quote(PASSWORD, safe='')}@{address}"
    for verb, *options in (
        ("tokenize", "--out", str(tmp_path / "tokens")),
        ("ingest", "--out", str(tmp_path / "meds")),
        ("inspect",),
    ):
        result = CliRunner().invoke(cli.app, [verb, uri, *options])
        assert result.exit_code == 0, result.output
        said = result.output + "".join(capfd.readouterr())
        assert "hunter2" not in said
    assert len(_files(tmp_path)) > 10
    for name, content in _files(tmp_path).items():
        assert b"hunter2" not in content, name


def test_a_wrong_password_is_refused_without_repeating_it(database: Server) -> None:
    address = f"127.0.0.1:{database.port}/postgres"
    source = PostgresSource.parse(f"postgresql://{USER}:chronoword@{address}")
    with (
        pytest.raises(PermissionError, match="authentication failed") as caught,
        source.transaction(),
    ):
        pass
    assert "chronoword" not in str(caught.value) + repr(source)
    assert f"{USER}@127.0.0.1:{database.port}" in str(caught.value)


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    pytest.importorskip("adbc_driver_postgresql", reason="the extra [postgres] is not installed")
    with pytest.raises(ConnectionError, match=r"u@127\.0\.0\.1:1/x: connection to server") as e:
        prepare("postgresql://u:hunter2@127.0.0.1:1/x", tmp_path / "work")
    assert "hunter2" not in str(e.value)


def test_a_missing_schema_or_table_is_named(database: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no table person in nowhere"):
        prepare(f"{database.uri}&schema=nowhere", tmp_path / "a")
    with pytest.raises(DataError, match="no table person in Vocab"):
        prepare(f"{database.uri}&schema=Vocab", tmp_path / "b")
    _sql(database, "CREATE SCHEMA other", "CREATE TABLE other.person (person_id integer)")
    try:
        with pytest.raises(ConfigError, match="schemas cdm, other have a table person"):
            prepare(database.uri, tmp_path / "c")
    finally:
        _sql(database, "DROP SCHEMA other CASCADE")
    with pytest.raises(ConfigError, match="read as omop, not as meds"):
        prepare(database.uri, tmp_path / "d", as_="meds")


def test_a_table_that_may_not_be_read_is_named(database: Server, tmp_path: Path) -> None:
    _sql(database, "CREATE ROLE reader LOGIN", "GRANT USAGE ON SCHEMA cdm TO reader")
    uri = database.uri.replace(f"{USER}@", "reader@")
    with pytest.raises(PermissionError, match=r"table cdm\.care_site: permission denied"):
        prepare(f"{uri}&schema=cdm", tmp_path / "work")


def test_types_of_the_server_arrive_as_they_are(server: Server, tmp_path: Path) -> None:
    _sql(
        server,
        "CREATE SCHEMA odd",
        "CREATE DOMAIN odd.code AS varchar(20)",
        'CREATE TABLE odd."PERSON" ("Person_ID" numeric(20, 2), gender_concept_id smallint, '
        "year_of_birth numeric)",
        """INSERT INTO odd."PERSON" VALUES (9007199254740993, 8532, 1950)""",
        "CREATE TABLE odd.measurement_rows (measurement_id bigint, person_id numeric, "
        "measurement_concept_id integer, measurement_date date, measurement_datetime timestamp, "
        "value_as_number numeric, unit_source_value char(8), value_source_value odd.code)",
        "INSERT INTO odd.measurement_rows VALUES "
        "(1, 9007199254740993, 3, '2020-01-05', '2020-01-05 10:00', 5.1, 'mg', 'x'), "
        "(2, 9007199254740993, 3, 'infinity', 'infinity', 'NaN', null, null), "
        "(3, 9007199254740993, 3, '-infinity', '-infinity', null, null, null)",
        "CREATE MATERIALIZED VIEW odd.measurement AS SELECT * FROM odd.measurement_rows",
    )
    prepared = prepare(f"{server.uri}&schema=odd", tmp_path / "work")
    events = [row for table in prepared.batches() for row in table.to_pylist()]
    (measured,) = [row for row in events if row["table"] == "measurement"]
    assert measured["subject_id"] == 9007199254740993
    assert (measured["numeric_value"], measured["unit"]) == (pytest.approx(5.1), "mg")
    assert prepared.report["rules"]["sentinel_time"] == 2
    assert prepared.report["tables_not_read"] == ["measurement_rows"]
    assert not (tmp_path / "work" / "source_copy").exists()  # the copy is gone


def test_times_with_a_zone_are_refused_before_anything_is_copied(
    server: Server, tmp_path: Path
) -> None:
    _sql(
        server,
        "CREATE SCHEMA zoned",
        "CREATE TABLE zoned.person (person_id integer, birth_datetime timestamptz)",
    )
    with pytest.raises(DataError, match=r"zoned\.person: column birth_datetime has a time zone"):
        prepare(f"{server.uri}&schema=zoned", tmp_path / "work")
    assert not (tmp_path / "work" / "source_copy").exists()


def test_the_copy_is_of_one_moment(database: Server, tmp_path: Path) -> None:
    source = PostgresSource.parse(f"{database.uri}&schema=cdm,Vocab")
    row = "INSERT INTO cdm.specimen (specimen_id) VALUES (1)"

    def write(line: str) -> None:
        if line.startswith("person"):  # the transaction is open, later tables are not read yet
            _sql(database, row)

    _sql(database, "CREATE TABLE cdm.specimen (specimen_id integer)")
    try:
        folder = source.copy(tmp_path / "copy", write)
        assert pq.read_metadata(folder / "specimen.parquet").num_rows == 0
        assert pq.read_metadata(folder / "person.parquet").num_rows > 100
        again = source.copy(tmp_path / "copy", pytest.fail)  # a finished copy is used again
        assert again == folder
    finally:
        _sql(database, "DROP TABLE cdm.specimen")


def test_a_killed_run_goes_on_from_the_moment_that_it_copied(
    database: Server, tmp_path: Path
) -> None:
    uri = f"{database.uri}&schema=cdm,Vocab"

    def kill(line: str) -> None:
        if line == "persons and visits":  # the first line after the copy
            raise KeyboardInterrupt

    whole = prepare(uri, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        prepare(uri, tmp_path / "killed", progress=kill)
    assert (tmp_path / "killed" / "source_copy" / "snapshot.json").is_file()
    _sql(database, "ALTER TABLE cdm.person RENAME TO renamed")
    try:
        again = prepare(uri, tmp_path / "killed")
        with pytest.raises(DataError, match="no table person"):
            prepare(uri, tmp_path / "new")
    finally:
        _sql(database, "ALTER TABLE cdm.renamed RENAME TO person")
    assert again.manifest == whole.manifest
    assert not (tmp_path / "killed" / "source_copy").exists()


def test_rows_that_did_not_come_are_noticed(
    database: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Session._next

    def shorter(session: Session, reader: Any, what: str) -> Any:
        batch = read(session, reader, what)
        return batch if batch is None else batch.slice(1)

    monkeypatch.setattr(Session, "_next", shorter)
    with pytest.raises(StateError, match=r"care_site: \d+ of \d+ rows came"):
        prepare(f"{database.uri}&schema=cdm", tmp_path / "work")
    assert not (tmp_path / "work" / "source_copy").exists()


def test_a_server_that_goes_away_is_a_fault_without_its_words(database: Server) -> None:
    source = PostgresSource.parse(database.uri)
    message = "table x: the server failed"
    with source.transaction() as session, pytest.raises(ConnectionError, match=message):
        session.rows("SELECT pg_terminate_backend(pg_backend_pid())", "table x")
    gone = replace(source, label="somewhere")
    with gone.transaction() as session, pytest.raises(DataError, match="a value cannot be read"):
        session.rows("SELECT 'Jane Doe'::integer", "table x")
