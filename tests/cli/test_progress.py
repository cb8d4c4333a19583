"""What verbs that draw timelines show while they run."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from tests.score.made import make_all

from chronoward import population
from chronoward.cli import progress
from chronoward.engine import EngineStatistics
from chronoward.files import write_json
from chronoward.store import TokenStore
from chronoward.trajectories import generate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.score.made import Made

ENGINE = r"timelines, [\d,]+ tokens/s, slots \d+% in use"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    made = make_all(tmp_path_factory.mktemp("progress"))
    write_json(made.run / "population.json", population.profile(TokenStore.open(made.tokens)))
    return made


def arguments(verb: str, made: Made, folder: Path) -> list[str]:
    """A command line of one of the three verbs."""
    out = ["--out", str(folder / "out")]
    if verb == "synthesize":
        return [verb, str(made.run), "--n-subjects", "40", "--max-tokens", "200", *out]
    given = [verb, str(made.run), str(made.tokens), "--cohort", str(made.cohort)]
    more = ["--outcome", str(made.outcome)] if verb == "score" else []
    return [*given, "--n-rollouts", "4", *more, *out]


def run_on_terminal(command: list[str]) -> str:
    """What a command writes to a terminal of 200 columns."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    process = subprocess.Popen(
        [sys.executable, "-m", "chronoward", *command],
        stdin=follower, stdout=subprocess.DEVNULL, stderr=follower, env=environment,
    )  # fmt: skip
    os.close(follower)

    def parts() -> Iterator[bytes]:
        while True:
            try:
                part = os.read(leader, 65536)
            except OSError:  # the other end is closed
                return
            if not part:
                return
            yield part

    said = b"".join(parts()).decode()
    os.close(leader)
    assert process.wait() == 0, said
    return said


@pytest.mark.parametrize("verb", ["score", "synthesize"])
def test_a_terminal_gets_a_bar_with_timelines_rate_and_slot_use(
    made: Made, tmp_path: Path, verb: str
) -> None:
    said = run_on_terminal(arguments(verb, made, tmp_path))
    assert "\x1b[" in said
    assert re.search(ENGINE, said)
    assert re.search(r"\d+:\d\d:\d\d", said)  # time gone and left


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("generate", ["--threads", "2", "--dtype", "int8"]),
        ("score", ["--threads", "1", "--dtype", "bfloat16"]),
        ("synthesize", ["--workers", "2"]),
    ],
)
def test_a_pipe_gets_lines_and_no_control_codes(
    made: Made, tmp_path: Path, verb: str, options: list[str]
) -> None:
    command = [sys.executable, "-m", "chronoward", *arguments(verb, made, tmp_path), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stderr
    assert "\r" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch(rf"{verb}: ([\d,]+) of \1 \w+, \d+ s; [\d,]+ {ENGINE}", last), last
    assert len(done.stderr.splitlines()) <= 3


def test_lines_come_now_and_then_and_say_how_long_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    with progress.bar("synthesize", unit="subjects") as advance:
        advance(100, 1000)  # of an earlier job
        for second in range(1, 31):
            now = float(second)
            done = 100 + 30 * second
            counts = EngineStatistics(
                32, rollouts=30 * second, drawn=6400 * second, steps=250 * second
            )
            advance(done, 1000, counts)
            advance(done, 1000, counts)
    assert capsys.readouterr().err.splitlines() == [
        "synthesize: 400 of 1,000 subjects, 10 s, 20 s left; "
        "300 timelines, 6,400 tokens/s, slots 80% in use",
        "synthesize: 700 of 1,000 subjects, 20 s, 10 s left; "
        "600 timelines, 6,400 tokens/s, slots 80% in use",
        "synthesize: 1,000 of 1,000 subjects, 30 s; "
        "900 timelines, 6,400 tokens/s, slots 80% in use",
    ]


@pytest.mark.parametrize("threads", [1, 2])
def test_counts_only_grow_and_end_at_all_timelines(
    made: Made, tmp_path: Path, threads: int
) -> None:
    seen: list[tuple[int, int, int]] = []

    def look(done: int, total: int, statistics: EngineStatistics | None) -> None:
        assert statistics is not None
        assert statistics.tokens <= statistics.drawn <= statistics.steps * statistics.n_slots
        seen.append((done, total, statistics.drawn))

    generate(made.run, made.tokens, made.cohort, tmp_path / "out", threads=threads, progress=look)
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] > 100
