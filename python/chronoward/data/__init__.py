"""OMOP and MEDS sources into the sorted event table of chronoward.schema.

Heavy modules (duckdb) load with the first use of a name from here, so that `import
chronoward.data` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chronoward.data.assemble import prepare
    from chronoward.data.config import IngestConfig, VisitPattern
    from chronoward.data.meds_writer import write_meds
    from chronoward.data.prepared import PreparedEvents
    from chronoward.data.rules import Rule
    from chronoward.data.source import recognize

_HOMES = {
    "IngestConfig": "config",
    "PreparedEvents": "prepared",
    "Rule": "rules",
    "VisitPattern": "config",
    "prepare": "assemble",
    "recognize": "source",
    "write_meds": "meds_writer",
}

__all__ = [
    "IngestConfig",
    "PreparedEvents",
    "Rule",
    "VisitPattern",
    "prepare",
    "recognize",
    "write_meds",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
