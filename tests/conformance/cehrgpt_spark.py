"""Runs in CEHR-GPT's environment: its own Spark conversion of OMOP folders, tokens as JSON.

Usage: python cehrgpt_spark.py RUNS.json OUT.json

RUNS.json maps a name to {"source": folder of Parquet tables, "options": {...}}; options are
arguments of `cehrbert_data.apps.generate_training_data.main`. OUT.json maps it to the tokens of
every person by id.
"""

from __future__ import annotations

import datetime
import json
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
from cehrbert_data.apps.generate_training_data import main
from cehrbert_data.decorators import AttType
from pyspark.sql import SparkSession

# As in create_cehrgpt_pretraining_data.sh, but for the filter by concept.
OPTIONS = {
    "domain_table_list": ["condition_occurrence", "procedure_occurrence", "drug_exposure"],
    "att_type": "day",
    "inpatient_att_type": "day",
    "include_death": False,
    "include_inpatient_hour_token": False,
    "should_construct_artificial_visits": True,
    "disconnect_problem_list_records": True,
}


# Small data: compiling the plans would take nearly all of the time.
SPARK = {
    "spark.sql.shuffle.partitions": "2",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.session.timeZone": "UTC",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
}


def start_spark() -> None:
    """The session that `main` will find."""
    builder = SparkSession.builder.master("local[2]")
    for name, value in SPARK.items():
        builder = builder.config(name, value)
    builder.getOrCreate().sparkContext.setLogLevel("ERROR")


def convert(source: Path, options: dict[str, object]) -> dict[str, list[str]]:
    """Tokens of every person by id."""
    chosen = OPTIONS | options
    chosen["att_type"] = AttType(chosen["att_type"])
    chosen["inpatient_att_type"] = AttType(chosen["inpatient_att_type"])
    with tempfile.TemporaryDirectory() as out:
        main(
            input_folder=str(source),
            output_folder=out,
            date_filter=datetime.date(1900, 1, 1),
            include_visit_type=True,
            is_new_patient_representation=True,
            exclude_visit_tokens=False,
            is_classic_bert=False,
            include_prolonged_stay=False,
            include_concept_list=False,
            gpt_patient_sequence=True,
            apply_age_filter=False,
            refresh_measurement=True,
            aggregate_by_hour=False,
            **chosen,
        )
        table = pq.read_table(Path(out) / "patient_sequence", columns=["person_id", "concept_ids"])
    rows = zip(*(table[name].to_pylist() for name in ("person_id", "concept_ids")), strict=True)
    return {str(person): tokens for person, tokens in sorted(rows)}


if __name__ == "__main__":
    start_spark()
    runs = json.loads(Path(sys.argv[1]).read_text())
    found = {name: convert(Path(run["source"]), run["options"]) for name, run in runs.items()}
    Path(sys.argv[2]).write_text(json.dumps(found))
