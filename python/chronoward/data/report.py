"""The ingest report: counts by table and rule, shares that readers must know, and the choices made.

Nothing in it depends on paths, clocks or the order of rows.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from chronoward.data import ledger
from chronoward.data.rules import Rule
from chronoward.errors import DataError

if TYPE_CHECKING:
    from chronoward.data.config import IngestConfig
    from chronoward.data.omop import Loaded
    from chronoward.data.workspace import Workspace

_NULLING = (
    Rule.END_BEFORE_START,
    Rule.SENTINEL_END,
    Rule.UNPARSABLE_END,
    Rule.VALUE_NOT_FINITE,
    Rule.VALUE_UNPARSABLE,
    Rule.METADATA_NULLED,
)
N_LISTED = 50
"""Unmapped codes that the report lists, commonest first."""
MIN_LISTED_SUBJECTS = 11


def make_report(
    work: Workspace,
    config: IngestConfig,
    loaded: Loaded,
    *,
    tables: dict[str, dict[str, int]],
    form: str,
    excluded: list[str],
    observation_rule: str,
) -> dict[str, Any]:
    """The report as JSON; the caller adds n_subjects and n_events.

    Args:
        work: holds `code_count` and `visit_count`.
        config: the dials.
        loaded: what the reader found out.
        tables: counts of the ledger.
        form: `omop` or `meds`.
        excluded: ids left out; only their number and hash are recorded.
        observation_rule: how periods were found.
    """
    visits, warnings = _visits(work, config), list(loaded.warnings)
    if not visits["reliable"]:
        warnings.append(
            f"{visits['artificial_share']:.1%} of the records needed an artificial visit: "
            "visit-level numbers are not reliable"
        )
    return {
        "schema": 1,
        "source": form,
        "tables": tables,
        "rules": ledger.total(tables),
        "config": config.to_json(),
        "visits": visits,
        "calendar": loaded.calendar,
        "extract_date": loaded.extract_date,
        "observation": observation_rule,
        "death_ascertainment": config.death_ascertainment,
        "concept_policy": config.concept_policy,
        "mapping": _mapping(work),
        "excluded": {
            "subjects": len(excluded),
            "sha256": hashlib.sha256("\n".join(excluded).encode()).hexdigest(),
        },
        "tables_not_read": loaded.not_read,
        "columns_not_read": loaded.extra_columns,
        "warnings": warnings,
    }


def check_strict(report: dict[str, Any]) -> None:
    """Refuses a source with faulty records.

    Raises:
        DataError: a record was quarantined or a value of it nulled; the message names the rules.
    """
    faults = {
        rule: n
        for rule, n in report["rules"].items()
        if Rule.named(rule).effect == "quarantined" or Rule.named(rule) in _NULLING
    }
    if faults:
        listed = ", ".join(f"{rule} {n}" for rule, n in faults.items())
        message = f"strict: faulty records were found ({listed})"
        raise DataError(message)


def _visits(work: Workspace, config: IngestConfig) -> dict[str, Any]:
    n_visits, n_made, n_code, n_artificial = work.rows("SELECT * FROM visit_count")[0]
    share = n_artificial / n_code if n_code else 0.0
    return {
        "visits": n_visits,
        "artificial_visits": n_made,
        "artificial_share": round(share, 6),
        "reliable": share <= config.artificial_share_warning,
    }


def _mapping(work: Workspace) -> dict[str, Any]:
    """Events by how far their code travels: standard, source value only, local concept."""
    rows = work.rows(
        """SELECT CASE WHEN starts_with(code, 'Source/') OR code = 'OMOP/0' THEN 'unmapped'
            WHEN starts_with(code, 'OMOP/') THEN 'concept_id_only' ELSE 'coded' END AS kind,
          sum(n_events)::BIGINT, count(*) FROM code_count GROUP BY kind ORDER BY kind"""
    )
    listed = work.rows(
        f"""SELECT code, n_events FROM code_count
        WHERE (starts_with(code, 'Source/') OR code = 'OMOP/0')
          AND n_subjects >= {MIN_LISTED_SUBJECTS}
        ORDER BY n_events DESC, code LIMIT {N_LISTED}"""
    )
    return {
        "events": {kind: n for kind, n, _ in rows},
        "codes": {kind: n for kind, _, n in rows},
        "unmapped_codes": [{"code": code, "events": n} for code, n in listed],
    }
