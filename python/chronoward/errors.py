"""What can go wrong, one class a kind of remedy.

Messages name a file, a row and a column, never a subject's id or a value: logs travel further than
the data may.
"""

from __future__ import annotations


class DataError(ValueError):
    """The data are not what the format promises: schema, range or time (mend the source)."""


class ConfigError(ValueError):
    """An option, a preset or a configuration file is wrong (mend the call)."""


class FormatError(ValueError):
    """A file of ours is corrupt, of another version, or belongs to something else."""


class LimitError(RuntimeError):
    """A stated limit would be passed; said before memory is taken."""


class NumericError(ArithmeticError):
    """NaN or infinity where a number is needed, or an empty set of choices."""


class StateError(RuntimeError):
    """Another job, a changed input, or a resume that does not fit."""


def require_at_least(least: int, config: object, *names: str) -> None:
    """Checks fields of a configuration; None passes (it means a default).

    Args:
        least: smallest value allowed.
        config: a dataclass.
        names: of its number fields.

    Raises:
        ConfigError: the first field that is smaller, by name.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and value < least:
            message = f"{name} must be at least {least}, got {value}"
            raise ConfigError(message)
