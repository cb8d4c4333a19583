"""What a job will write, decided before anything is drawn: units, keys, seed, hashes.

Work is units of whole subjects of a fixed size, so that a unit's content depends on the model, the
seed and the unit's number only: not on how many subjects are wanted, nor on workers. Only the keys
depend on the job: unit × stride + n, with the stride that this plan fixes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from chronoward.errors import ConfigError, FormatError

INT32_MAX = 2**31 - 1
UNIT_SUBJECTS = 512  # writing a unit costs a third of a second beside what its rows take
AVERAGE_ROWS = 1024  # keys a subject, on average over a unit, that int32 must leave room for
SCHEMA = 2

Format = Literal["omop", "meds"]
Files = Literal["csv", "parquet", "duckdb"]
Keys = Literal["auto", "int32", "int64"]


@dataclass(frozen=True, kw_only=True)
class SynthesisPlan:
    """One job; equal plans give equal bytes.

    Raises:
        ConfigError: a number out of range or an unknown choice.
    """

    n_subjects: int
    seed: int
    format: Format
    files: Files
    """How OMOP tables are stored; MEDS is always Parquet."""
    max_tokens: int
    """Most tokens drawn for one subject; a timeline cut there says so in the manifest."""
    max_context: int
    """Tokens of a context; longer timelines are cut at a visit border while they are drawn."""
    model_hash: str
    """SHA-256 of the weights."""
    tokenizer_hash: str
    population_hash: str
    version: str
    """Of chronoward."""
    device: str = "cpu"
    """Where timelines are drawn, cpu or cuda; their sums round otherwise, so the bytes differ."""
    dtype: str = "float32"
    """Of weights, keys and values while decoding."""
    kv_dtype: str | None = None
    """Of keys and values where that is another."""
    unit_subjects: int = UNIT_SUBJECTS
    keys: Literal["int32", "int64"] = "int32"
    stride: int = INT32_MAX
    """Keys that a unit may use in each table."""

    def __post_init__(self) -> None:
        for name in ("n_subjects", "max_tokens", "max_context", "unit_subjects", "stride"):
            if getattr(self, name) < 1:
                message = f"{name} must be positive, got {getattr(self, name)}"
                raise ConfigError(message)
        if self.format not in ("omop", "meds"):
            message = f"format must be omop or meds, got {self.format!r}"
            raise ConfigError(message)
        if self.files not in ("csv", "parquet", "duckdb"):
            message = f"files must be csv, parquet or duckdb, got {self.files!r}"
            raise ConfigError(message)

    @property
    def n_units(self) -> int:
        """Number of units; the last may be smaller."""
        return -(-self.n_subjects // self.unit_subjects)

    @property
    def key_type(self) -> str:
        """SQL type of primary keys."""
        return "INTEGER" if self.keys == "int32" else "BIGINT"

    def subjects(self, unit: int) -> range:
        """Subject ids of a unit, from 1."""
        first = unit * self.unit_subjects
        return range(first + 1, min(first + self.unit_subjects, self.n_subjects) + 1)

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON can hold it."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, value: Any, source: str) -> SynthesisPlan:
        """The inverse of `to_json`.

        Raises:
            FormatError: not a plan, or of another version.
        """
        if not isinstance(value, dict) or value.get("schema") != SCHEMA:
            message = f"{source} is not a synthesis plan of this version"
            raise FormatError(message)
        names = {f.name for f in fields(cls)}
        if set(value) - {"schema"} != names:
            message = f"{source} has missing or unknown entries"
            raise FormatError(message)
        return cls(**{name: value[name] for name in names})


def key_space(
    n_subjects: int, *, unit_subjects: int, max_tokens: int, keys: Keys = "auto"
) -> tuple[Literal["int32", "int64"], int]:
    """Type and stride of primary keys: (type, keys a unit may use in each table).

    A token makes at most one row a table, so a unit needs at most subjects × tokens keys. Where all
    units fit into int32 (what OHDSI's DDL declares) like that, nothing can overflow. Up to about
    2 M subjects a unit still has 1,024 keys a subject on average; a unit that needs more stops the
    job with the advice to use int64. Beyond, keys are int64.

    Args:
        n_subjects: subjects of the job.
        unit_subjects: subjects of a unit.
        max_tokens: most tokens of a subject.
        keys: int32 or int64 to overrule.

    Raises:
        ConfigError: an unknown choice, or int32 where a subject would have under 1,024 keys.
    """
    if keys not in ("auto", "int32", "int64"):
        message = f"keys must be auto, int32 or int64, got {keys!r}"
        raise ConfigError(message)
    n_units = -(-n_subjects // unit_subjects)
    certain = unit_subjects * max_tokens
    widest = INT32_MAX // n_units
    if keys == "int64":
        return "int64", certain
    if certain <= widest:
        return "int32", certain
    if widest >= unit_subjects * AVERAGE_ROWS:
        return "int32", widest
    if keys == "int32":
        message = f"{n_subjects:,} subjects do not fit into int32 keys; use keys int64"
        raise ConfigError(message)
    return "int64", certain
