"""`simulate`: a clinic, its tables, and what is known about it, as one folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chronoward.data.simulate.clinic import clinic_tables, run_clinic
from chronoward.data.simulate.config import SimulationConfig
from chronoward.data.simulate.faults import (
    Plan,
    plant_codes,
    plant_links_and_times,
    plant_unit_variant,
    plant_values,
)
from chronoward.data.simulate.outcomes import write_outcomes
from chronoward.data.simulate.tables import build_table, write_csv
from chronoward.data.simulate.visit_faults import (
    plant_artificial,
    plant_deaths_and_periods,
    plant_details,
    plant_late_records,
    plant_persons,
    plant_unread_table,
    plant_visits,
)
from chronoward.errors import ConfigError
from chronoward.files import make_output_folder, write_json

if TYPE_CHECKING:
    from pathlib import Path

    from chronoward.data.simulate.clinic import Clinic
    from chronoward.data.simulate.omop import Rows

DEFAULT_ORACLE_ROWS = 200_000


def plant(clinic: Clinic, tables: dict[str, Rows]) -> dict[str, int]:
    """Plants faults into the tables; returns how often each ingestion rule will apply."""
    plan = Plan(clinic, tables)
    # Order matters: units before copies are made, persons last.
    plant_unit_variant(plan)
    plant_visits(plan)
    plant_details(plan)
    plant_links_and_times(plan)
    plant_codes(plan)
    plant_values(plan)
    plant_late_records(plan)
    plant_artificial(plan)
    plant_deaths_and_periods(plan)
    plant_persons(plan)
    plant_unread_table(plan)
    return dict(plan.counts)


def simulate(
    out: Path,
    n_subjects: int,
    seed: int,
    config: SimulationConfig | None = None,
    *,
    truth: bool = False,
    oracle_rows: int = DEFAULT_ORACLE_ROWS,
    truth_rows_per_subject: int = 1,
) -> dict[str, int]:
    """Writes a simulated clinic as an OMOP CDM 5.4 folder.

    Args:
        out: folder to make; must not exist or be empty.
        n_subjects: how many enter the clinic.
        seed: any integer; the same seed and config give the same bytes on every machine.
        config: rates and half-lives; the shipped clinic by default.
        truth: also write truth.parquet, truth_cohort.parquet and oracle.json.
        oracle_rows: prediction times behind oracle.json, at least 1,000; 0 leaves the file out.
        truth_rows_per_subject: at most so many prediction times a subject in the truth.

    Returns:
        Rows by table; with `truth` also of "truth_cohort".

    Raises:
        ConfigError: impossible parameters.
        StateError: `out` has content.
        OSError: `out` cannot be written.
    """
    if oracle_rows != 0 and oracle_rows < 1000:
        message = f"oracle_rows must be 0 or at least 1,000, got {oracle_rows}"
        raise ConfigError(message)
    if not 1 <= truth_rows_per_subject <= 64:
        message = f"truth_rows_per_subject must be 1 to 64, got {truth_rows_per_subject}"
        raise ConfigError(message)
    clinic = run_clinic(config or SimulationConfig(), n_subjects, seed)
    out = make_output_folder(out)
    tables = clinic_tables(clinic)
    rules = plant(clinic, tables)
    for name, rows in tables.items():
        write_csv(out, name, build_table(name, rows))
    write_json(out / "traps.json", {"schema": 1, "rules": rules})
    write_outcomes(clinic.catalog, out)
    write_json(out / "simulation.json", {"seed": seed, "config": clinic.config.to_dict()})
    counts = {name: rows.n_written for name, rows in tables.items()}
    if truth:
        # scikit-learn and the filter load only when they are asked for.
        from chronoward.data.simulate.answers import write_oracle, write_truth

        counts["truth_cohort"] = write_truth(clinic, out, truth_rows_per_subject)
        if oracle_rows:
            write_oracle(clinic, out, oracle_rows)
    return counts
