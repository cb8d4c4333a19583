"""Production beside the twin: the same events, the same ledger, the same tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
from hypothesis import HealthCheck, settings

from chronoward.data import read_ledger
from chronoward.schema import Role, event_schema
from chronoward.tokenizer import TokenizerSpec, fit, twin
from chronoward.tokenizer.inputs import prepare_input

if TYPE_CHECKING:
    from tests.twin.events import Mended

    from chronoward.data import PreparedEvents

_OFF = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
QUICK = settings(max_examples=15, deadline=None, suppress_health_check=_OFF)
THOROUGH = settings(max_examples=400, deadline=None, suppress_health_check=_OFF)


def assert_same(prepared: PreparedEvents, wanted: Mended) -> None:
    """Checks events, observation, ledger, counts by rule, and tokens under each preset.

    Raises:
        AssertionError: production and twin differ.
    """
    ledger = read_ledger(prepared.path / "ledger").to_pylist()
    found = sorted(
        (
            "data" if r["table"].startswith("data/") else r["table"],
            *(str(r["key"]), r["rule"] or "", tuple(sorted(r["changes"]))),
        )
        for r in ledger
    )
    assert found == sorted(wanted.ledger)
    assert prepared.report["rules"] == wanted.rules()
    events = pa.concat_tables(
        [event_schema().empty_table(), *(b.cast(event_schema()) for b in prepared.batches())]
    )
    expected = wanted.event_table()
    assert events.to_pylist() == expected.to_pylist()
    assert prepared.observation.to_pylist() == wanted.observation_table().to_pylist()
    assert (prepared.calendar, prepared.has_visits) == (wanted.calendar, wanted.has_visits)
    _assert_same_tokens(prepared, events, expected, wanted)


def _assert_same_tokens(
    prepared: PreparedEvents, events: pa.Table, expected: pa.Table, wanted: Mended
) -> None:
    if Role.CODE not in set(expected["role"].to_pylist()):
        return  # there is nothing to fit
    for preset in ("compact", "cehr", "events"):
        if preset == "compact" and not prepared.has_visits:
            continue
        spec = TokenizerSpec(preset=preset, calendar=prepared.calendar, min_subjects=1)
        tokenizer = fit(prepared.batches(), prepared.codes, spec, prepared.observation)
        given = prepare_input(
            expected,
            wanted.observation_table(),
            tokenizer.resolver(prepared.codes),
        )
        slow = twin.encode(tokenizer.encode_tables, given)
        fast = tokenizer.encode(events, prepared.observation, codes=prepared.codes, threads=2)
        assert fast.same_timelines(slow)
        assert fast.counts == slow.counts
