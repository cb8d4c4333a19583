"""OMOP and MEDS sources into the sorted event table of chronoward.schema.

Heavy modules (duckdb) load with the first use of a name from here, so that `import
chronoward.data` stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chronoward.packages import on_first_use

if TYPE_CHECKING:
    from chronoward.data.assemble import prepare
    from chronoward.data.config import CEHRGPT_DIALS, IngestConfig, VisitPattern
    from chronoward.data.ledger import read_ledger
    from chronoward.data.meds_writer import write_meds
    from chronoward.data.memory import MedsTables
    from chronoward.data.origin import recognize
    from chronoward.data.prepared import PreparedEvents
    from chronoward.data.rules import Rule

_HOMES = {
    "CEHRGPT_DIALS": "chronoward.data.config",
    "IngestConfig": "chronoward.data.config",
    "MedsTables": "chronoward.data.memory",
    "PreparedEvents": "chronoward.data.prepared",
    "Rule": "chronoward.data.rules",
    "VisitPattern": "chronoward.data.config",
    "prepare": "chronoward.data.assemble",
    "read_ledger": "chronoward.data.ledger",
    "recognize": "chronoward.data.origin",
    "write_meds": "chronoward.data.meds_writer",
}

__all__ = [
    "CEHRGPT_DIALS",
    "IngestConfig",
    "MedsTables",
    "PreparedEvents",
    "Rule",
    "VisitPattern",
    "prepare",
    "read_ledger",
    "recognize",
    "write_meds",
]

__getattr__ = on_first_use(__name__, _HOMES)
