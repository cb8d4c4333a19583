"""Everything that fuzzing ever found is read again: cleanly, or with an error of ours."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from tests.fuzz.child import OURS
from tests.fuzz.run import prepare_template
from tests.fuzz.targets import TARGETS

CORPUS = sorted(path for path in (Path(__file__).parent / "corpus").iterdir())


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, bytes]]:
    folder = tmp_path_factory.mktemp("templates")
    return {name: prepare_template(target, folder) for name, target in TARGETS.items()}


@pytest.mark.parametrize("name", list(TARGETS))
def test_the_good_file_of_each_target_is_read(
    templates: dict[str, tuple[Path, bytes]], name: str
) -> None:
    TARGETS[name].read(templates[name][0])


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_a_finding_is_no_finding_any_more(
    templates: dict[str, tuple[Path, bytes]], path: Path, tmp_path: Path
) -> None:
    name = path.name.rpartition("-")[0]
    target = TARGETS[name]
    place = (templates[name][0] / ".file").read_text()
    made = tmp_path / target.make(tmp_path).relative_to(tmp_path)
    assert made == tmp_path / place
    made.write_bytes(path.read_bytes())
    with suppress(*OURS):
        target.read(tmp_path)
