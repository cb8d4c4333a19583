"""Steps that are done once: a rerun of an interrupted demo goes on where it stopped."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING, Any

from chronoward.errors import StateError
from chronoward.files import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STATE = "demo.json"


class Steps:
    """Runs named steps in order and remembers, in `demo.json`, which are done.

    Args:
        out: the demo folder.
        plan: what the demo was asked for; another plan in the folder is refused.
        say: takes lines for the user.

    Raises:
        StateError: the folder holds something else.
    """

    def __init__(self, out: Path, plan: dict[str, Any], say: Callable[[str], None]) -> None:
        self._out = out
        self._say = say
        path = out / STATE
        if path.exists():
            self._state: dict[str, Any] = read_json(path)
            if self._state["plan"] != plan:
                message = f"{out} holds a demo of another source or configuration"
                raise StateError(message)
        elif out.exists() and any(out.iterdir()):
            message = f"{out} exists and is not a demo folder; choose another folder"
            raise StateError(message)
        else:
            out.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._state = {"schema": 1, "plan": plan, "steps": {}}
            write_json(path, self._state)

    @property
    def seconds(self) -> dict[str, float]:
        """Wall seconds of each finished step, in order."""
        return {name: float(step["seconds"]) for name, step in self._state["steps"].items()}

    def run(
        self,
        name: str,
        action: Callable[[], dict[str, Any]],
        *,
        clean: tuple[str, ...] = (),
    ) -> dict[str, Any]:
        """Runs a step unless it is done.

        Args:
            name: of the step.
            action: does it and returns a few facts, which are kept.
            clean: entries of the demo folder that the step makes and cannot resume.

        Returns:
            What the step returned, now or when it was done.
        """
        if name in self._state["steps"]:
            facts: dict[str, Any] = self._state["steps"][name]["facts"]
            return facts
        for entry in clean:
            path = self._out / entry
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        self._say(f"{name} …")
        start = time.monotonic()
        facts = action()
        seconds = round(time.monotonic() - start, 1)
        self._state["steps"][name] = {"seconds": seconds, "facts": facts}
        write_json(self._out / STATE, self._state)
        told = ", ".join(
            f"{value:,} {key}" for key, value in facts.items() if isinstance(value, int)
        )
        self._say(f"{name}: {seconds:.0f} s{told and ', ' + told}")
        return facts
