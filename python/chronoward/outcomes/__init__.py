"""What is predicted: outcome definitions in YAML, resolved against the codes that a source has.

A definition names codes by vocabulary, OMOP concept ids, or prefixes of whole codes (for sources
without an ontology); descendants come from the code table's `parent_codes`. Nothing is matched by
its name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from chronoward.errors import ConfigError
from chronoward.files import read_settings

if TYPE_CHECKING:
    import pyarrow as pa

_SHIPPED = Path(__file__).parent
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")  # it becomes a folder's name
_KEYS = {
    "name",
    "title",
    "kind",
    "codes",
    "prefixes",
    "include_descendants",
    "first_only",
    "sex",
    "min_age_years",
    "note",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One outcome definition.

    Attributes:
        name: identifier, used for folders and columns.
        title: what a reader sees.
        kind: `codes` (any of the codes is recorded), `death`, or `visit` (an inpatient visit).
        codes: vocabulary → codes; the vocabulary `OMOP` holds concept ids.
        prefixes: beginnings of whole codes, as the code table spells them.
        include_descendants: codes with a matched ancestor count too.
        first_only: subjects who had it before are not at risk (new onset).
        sex: `F` or `M` when only one sex is at risk.
        min_age_years: below this age a subject is not at risk.
        note: a sentence for the report.
    """

    name: str
    title: str
    kind: Literal["codes", "death", "visit"] = "codes"
    codes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    prefixes: tuple[str, ...] = ()
    include_descendants: bool = True
    first_only: bool = True
    sex: Literal["F", "M"] | None = None
    min_age_years: float = 0.0
    note: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            message = "the name of an outcome has 1 to 100 letters, digits, -, _ and ."
            raise ConfigError(message)
        if self.kind not in ("codes", "death", "visit"):
            message = (
                f"outcome {self.name!r}: kind must be codes, death or visit, not {self.kind!r}"
            )
            raise ConfigError(message)
        if self.kind == "codes" and not self.codes and not self.prefixes:
            message = f"outcome {self.name!r} names no code"
            raise ConfigError(message)
        if self.sex not in (None, "F", "M"):
            message = f"outcome {self.name!r}: sex must be F or M, not {self.sex!r}"
            raise ConfigError(message)


def shipped() -> list[str]:
    """Names of the definitions that come with the package."""
    return sorted(path.stem for path in _SHIPPED.glob("*.yaml"))


def load(name_or_path: str | Path) -> Outcome:
    """Reads a definition: a shipped one by name, or a YAML file.

    Raises:
        ConfigError: unknown name, not YAML, an unknown key, or an impossible value.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = _SHIPPED / f"{name_or_path}.yaml"
    if not path.is_file():
        message = (
            f"no outcome {str(name_or_path)!r}; shipped: {', '.join(shipped())}; or a YAML file"
        )
        raise ConfigError(message)
    try:
        return _from_mapping(read_settings(path), path)
    except (AttributeError, TypeError):
        message = f"{path}: a key holds a value of another type"
        raise ConfigError(message) from None


def _from_mapping(raw: dict[str, Any], path: Path) -> Outcome:
    if not {"name", "title"} <= raw.keys():
        message = f"{path}: an outcome needs at least name and title"
        raise ConfigError(message)
    if unknown := raw.keys() - _KEYS:
        message = f"{path}: unknown keys {sorted(unknown)}; known: {sorted(_KEYS)}"
        raise ConfigError(message)
    codes = {
        str(vocabulary): tuple(str(code) for code in listed)
        for vocabulary, listed in (raw.get("codes") or {}).items()
    }
    rest = {key: raw[key] for key in raw.keys() - {"codes", "prefixes"} if raw[key] is not None}
    return Outcome(**rest, codes=codes, prefixes=tuple(map(str, raw.get("prefixes") or ())))


def resolve(outcome: Outcome, code_table: pa.Table) -> list[tuple[str, str]]:
    """The (table, code) pairs of a source that mean this outcome, sorted.

    Args:
        outcome: the definition.
        code_table: columns of `chronoward.schema.code_schema`.

    Raises:
        ConfigError: the source has no such code; the message names the outcome.
    """
    rows = code_table.select(["table", "code", "concept_id", "parent_codes", "is_inpatient"])
    found = sorted(
        (row["table"], row["code"]) for row in rows.to_pylist() if _matches(outcome, row)
    )
    if not found:
        message = f"outcome {outcome.name!r} has no code in this source's {rows.num_rows} codes"
        raise ConfigError(message)
    return found


def _matches(outcome: Outcome, row: dict[str, Any]) -> bool:
    code: str = row["code"]
    if outcome.kind == "death":
        return code.startswith("MEDS_DEATH")
    if outcome.kind == "visit":
        return bool(row["is_inpatient"])
    wanted = {f"{vocabulary}/{c}" for vocabulary, listed in outcome.codes.items() for c in listed}
    concepts = {int(c) for c in outcome.codes.get("OMOP", ())}
    names = {code, *(row["parent_codes"] if outcome.include_descendants else ())}
    return (
        bool(names & wanted)
        or (row["concept_id"] != 0 and row["concept_id"] in concepts)
        or code.startswith(outcome.prefixes)
    )
