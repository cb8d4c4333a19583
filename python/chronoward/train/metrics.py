"""`metrics.jsonl`: one line a report, each head's loss in its own unit."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import torch

from chronoward import files
from chronoward.errors import FormatError

if TYPE_CHECKING:
    from pathlib import Path

    from chronoward.model import HeadLoss

# token class -> what the log counts it as (DESIGN: bits per token by class)
GROUPS = ("time", "code", "value", "structure")
_TIME_CLASSES, _CODE_CLASS, _VALUE_CLASS = (13, 14, 15), 16, 17


def group_of_class(token_class: int) -> int:
    """Index into `GROUPS`."""
    if token_class in _TIME_CLASSES:
        return 0
    return {_CODE_CLASS: 1, _VALUE_CLASS: 2}.get(token_class, 3)


def _number(value: float | torch.Tensor) -> Any:
    """The value, of a CPU's tensor at once; a device may have yet to make it."""
    if not isinstance(value, torch.Tensor):
        return value
    return float(value) if value.device.type == "cpu" else value.double()


class Sums:
    """Adds up head losses over batches. Those of a device stay there until `read`, which is to be
    called before anything is asked but `not_finite`."""

    def __init__(self) -> None:
        self._total: dict[str, tuple[Any, float]] = {}
        self._parts: dict[str, dict[str, tuple[Any, float]]] = {}

    def add(self, name: str, loss: HeadLoss) -> None:
        """Adds one batch's loss of the head `name`."""
        one = Sums()
        one._total[name] = (_number(loss.total.detach()), loss.weight)
        one._parts[name] = {part: (_number(sum_), n) for part, (sum_, n) in loss.parts.items()}
        self.merge(one)

    def read(self) -> Sums:
        """Fetches what lies on a device, all at once; this waits for it."""
        tables: list[dict[str, tuple[Any, float]]] = [self._total, *self._parts.values()]
        held = [
            (table, name)
            for table in tables
            for name, (value, _) in table.items()
            if isinstance(value, torch.Tensor)
        ]
        if held:
            values = torch.stack([table[name][0] for table, name in held]).tolist()
            for (table, name), value in zip(held, values, strict=True):
                table[name] = (value, table[name][1])
        return self

    def not_finite(self, device: torch.device) -> torch.Tensor:
        """Whether any head's loss is not, bool () on the device; nothing waits."""
        totals = [
            torch.as_tensor(value, dtype=torch.float64, device=device)
            for value, _ in self._total.values()
        ]
        if not totals:
            return torch.zeros((), dtype=torch.bool, device=device)
        return ~torch.isfinite(torch.stack(totals)).all()

    def merge(self, other: Sums) -> None:
        """Adds all of another's sums."""
        for name, (total, weight) in other._total.items():
            old = self._total.get(name, (0.0, 0.0))
            self._total[name] = (old[0] + total, old[1] + weight)
        for name, parts in other._parts.items():
            mine = self._parts.setdefault(name, {})
            for part, (value, count) in parts.items():
                before = mine.get(part, (0.0, 0.0))
                mine[part] = (before[0] + value, before[1] + count)

    def means(self) -> dict[str, float]:
        """Loss of each head in its own unit."""
        return {n: t / w for n, (t, w) in self._total.items() if w > 0}

    def part_means(self, name: str) -> dict[str, float]:
        """Means of a head's parts that have any terms."""
        parts = self._parts.get(name, {})
        return {part: value / count for part, (value, count) in parts.items() if count > 0}

    def report(self, units: dict[str, str]) -> dict[str, Any]:
        """The heads' losses with their units, and bits per token by group."""
        losses = {
            name: {"value": files.finite_or_none(mean), "unit": units[name]}
            for name, mean in self.means().items()
        }
        result: dict[str, Any] = {"loss": losses}
        if bits := self.part_means("next_event"):
            result["bits_per_token"] = {
                part: files.finite_or_none(nats / math.log(2)) for part, nats in bits.items()
            }
        if hazard := self.part_means("hazard"):
            result["hazard_by_outcome"] = {
                part: files.finite_or_none(nats) for part, nats in hazard.items()
            }
        return result


class MetricsLog:
    """The lines of one run; written whole each time, so a reader never sees half a line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[dict[str, Any]] = []

    def resume(self, step: int) -> None:
        """Takes over the lines up to `step`; later ones are made again.

        Raises:
            FormatError: a line that is not JSON.
        """
        if not self._path.is_file():
            return
        for number, text in enumerate(self._path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                line = json.loads(text)
            except json.JSONDecodeError as error:
                message = f"{self._path}, line {number} is not JSON: {error}"
                raise FormatError(message) from None
            if line["step"] <= step:
                self._lines.append(line)

    def add(self, line: dict[str, Any]) -> None:
        """Adds a line (kept in memory until `write`)."""
        self._lines.append(line)

    def write(self) -> None:
        """Writes all lines, whole or not at all."""
        text = "".join(
            json.dumps(line, sort_keys=True, allow_nan=False) + "\n" for line in self._lines
        )
        files.write_bytes(self._path, text.encode("utf-8"))

    @property
    def lines(self) -> list[dict[str, Any]]:
        """All lines so far."""
        return list(self._lines)
