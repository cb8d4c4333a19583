"""What the user writes becomes a source in one place, and a password never leaves it."""

from __future__ import annotations

from pathlib import Path

import pytest

from chronoward.data.origin import as_source
from chronoward.data.postgres import PostgresSource
from chronoward.errors import ConfigError


def _parse(text: str) -> PostgresSource:
    source = as_source(text)
    assert isinstance(source, PostgresSource)
    return source


@pytest.mark.parametrize(
    ("text", "label", "schemas", "name"),
    [
        ("postgresql://h/cdm", "postgresql://h/cdm", (), "cdm"),
        ("postgres://u:p@h:5433/cdm", "postgresql://u@h:5433/cdm", (), "cdm"),
        (
            "postgresql://u:hunter2@h/cdm?schema=a,B&sslmode=require&sslpassword=hunter2",
            "postgresql://u@h/cdm?schema=a,B",
            ("a", "B"),
            "cdm",
        ),
        (
            "postgresql://?host=/run/pg&dbname=d&user=u&password=hunter2",
            "postgresql://?host=/run/pg&dbname=d&user=u",
            (),
            "d",
        ),
        ("postgresql://u:a%40b@h1:1,[::1]:2/x", "postgresql://u@h1:1,[::1]:2/x", (), "x"),
    ],
)
def test_an_address_is_named_without_its_password(
    text: str, label: str, schemas: tuple[str, ...], name: str
) -> None:
    source = _parse(text)
    assert (source.label, str(source), source.schemas, source.name) == (
        *(label, label),
        *(schemas, name),
    )
    assert "hunter2" not in repr(source)
    assert "schema=" not in source.uri


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u:hun/ter2@h/x",
        "postgresql://u:hun?ter2@h/x",
        "postgresql://u:hun#ter2@h/x",
        "postgresql://u:12/hunter2@h/x",
        "postgresql://u:12?hunter2@h/x",
        "postgresql://u:12?a=hunter2@h/x",
        "postgresql://u:hunter2@h:port/x",
        "postgresql://u:hunter2@[h/x",
        "postgresql://u:hunter2@h/x/y",
        "postgresql://u:hunter2@h/x?schema",
    ],
)
def test_a_malformed_address_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError, match="percent-encoded") as caught:
        as_source(text)
    assert "ter2" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_another_password_is_the_same_source() -> None:
    first, second = _parse("postgresql://u:a@h/x"), _parse("postgresql://u:b@h/x")
    assert first.key == second.key
    assert first.key != _parse("postgresql://u:a@h/x?schema=y").key


def test_paths_stay_paths_and_other_addresses_are_refused() -> None:
    assert as_source("data/omop") == as_source(Path("data/omop")) == Path("data/omop")
    assert as_source("/a/b://c") == Path("/a/b:/c")
    with pytest.raises(ConfigError, match=r"postgresql://…, got mysql://"):
        as_source("mysql://u:hunter2@h/x")
    with pytest.raises(ConfigError, match="is text") as caught:
        as_source(Path("postgresql://u:hunter2@h/x"))
    assert "hunter2" not in str(caught.value)
