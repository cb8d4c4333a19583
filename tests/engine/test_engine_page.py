from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.score.made import make_all

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_the_example_of_the_docs_runs(
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (repository / "docs" / "engine.md").read_text()
    found = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert found
    assert 15 <= len(found[1].splitlines()) <= 25
    made = make_all(tmp_path)
    assert (made.run, made.tokens) == (tmp_path / "run", tmp_path / "tokens")
    monkeypatch.chdir(tmp_path)
    exec(compile(found[1], "docs/engine.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 40
