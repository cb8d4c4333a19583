"""Facts about a MEDS source's events, summed by the core, as the tables that OMOP's SQL makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from chronoward.schema import Role

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from chronoward.data.workspace import Workspace


def register_facts(
    work: Workspace,
    facts: dict[str, NDArray[Any]],
    codes: pa.Array,
    *,
    min_subjects: int,
    inpatient: Iterable[str],
) -> None:
    """Makes the tables of `chronoward.data.codes.describe_events`, and `subject`'s deaths.

    Args:
        work: gets the tables.
        facts: `chronoward._core.MedsMending.facts`.
        codes: string, what the places of codes stand for.
        min_subjects: of one sex, that a code must have to be that sex's own.
        inpatient: visit codes of the inpatient class.
    """

    def named(place: NDArray[np.int32]) -> pa.Array:
        return codes.take(pa.array(place))

    table, code, role = (facts[f"kind_{name}"] for name in ("table", "code", "role"))
    kinds = {"tbl": pa.array(table.astype(np.uint16)), "code": named(code), "role": role}
    work.add_rows("event_kind", pa.table(kinds))
    women, men = facts["kind_n_female"], facts["kind_n_male"]
    is_own = (role == Role.CODE) & ((women == 0) != (men == 0))
    kept = np.flatnonzero(is_own & (women + men >= min_subjects))
    sexes = pa.array(["F" if women[k] else "M" for k in kept], pa.string())
    own = {"tbl": pa.array(table[kept].astype(np.uint16)), "code": named(code[kept]), "sex": sexes}
    work.add_rows("code_sex", pa.table(own))
    work.add_rows("inpatient_code", pa.table({"code": pa.array(list(inpatient), pa.string())}))
    seen = np.flatnonzero(facts["n_events"]).astype(np.int32)
    work.add_rows(
        "code_count",
        pa.table(
            {
                "code": named(seen),
                "n_events": facts["n_events"][seen],
                "n_subjects": facts["n_subjects"][seen],
            }
        ),
    )
    names = ("n_visits", "n_made", "n_code", "n_artificial")
    counts = zip(names, facts["visits"].tolist(), strict=True)
    work.add_rows("visit_count", pa.table({name: [n] for name, n in counts}))
    lives = {"first": _us(facts["first_us"]), "last": _us(facts["last_us"])}
    work.add_rows("times", pa.table({"subject_id": facts["subject_id"], **lives}))
    deaths = {"subject_id": facts["died"], "death": _us(facts["death_us"])}
    work.add_rows("death_time", pa.table(deaths))


def _us(values: NDArray[np.int64]) -> pa.Array:
    return pa.array(values, pa.int64()).cast(pa.timestamp("us"))
