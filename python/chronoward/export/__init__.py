"""What we make, in the form that another tool reads. Patient data stay patient data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chronoward.packages import make_callable, on_first_use

if TYPE_CHECKING:
    from chronoward.export.run import TARGETS, export

__all__ = ["TARGETS", "export"]

_HOMES = {"TARGETS": "chronoward.export.run", "export": "chronoward.export.run"}

__getattr__ = on_first_use(__name__, _HOMES)

make_callable(__name__)
