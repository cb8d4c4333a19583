from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from chronoward.cli import app
from chronoward.errors import FormatError
from chronoward.evaluation.report import count_text, estimate, render, when_asked, write_report
from chronoward.evaluation.sections import read_metrics
from chronoward.evaluation.synthetic import too_few_section

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def metrics(made_up_evaluation: Path) -> dict[str, Any]:
    return read_metrics(made_up_evaluation)


@pytest.fixture(scope="module")
def page(metrics: dict[str, Any]) -> str:
    return render(metrics)


def test_the_page_names_no_address_and_runs_nothing(page: str) -> None:
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page
    assert "@import" not in page
    assert not re.search(r'\b(src|href)="(?!#)', page)
    assert "default-src 'none'" in page


def test_the_verdict_comes_first(page: str) -> None:
    places = [page.index(f'id="{name}"') for name in ("verdict", "cohort", "task0", "synthetic")]
    assert places == sorted(places)
    assert "When not to use it" in page


def test_too_few_events_say_so_and_show_no_auroc(page: str) -> None:
    task = page[page.index('id="task1"') : page.index('id="synthetic"')]
    assert "Insufficient follow-up" in task
    assert "AUROC" not in task


def test_a_correction_of_the_level_is_said(metrics: dict[str, Any], page: str) -> None:
    assert "brought to the incidence" not in page
    changed = copy.deepcopy(metrics)
    changed["predictions"]["tasks"][0]["calibration"] = {"first": 0.71, "again": 1.0}
    assert "with k = 0.71 for who never had the outcome, 1.00 for who had it" in render(changed)


def test_too_few_people_to_compare_say_so(metrics: dict[str, Any]) -> None:
    few = {**metrics, "synthetic": {"schema": 1, **too_few_section()}}
    page = render(few)
    section = page[page.index('id="synthetic"') : page.index('id="omop"')]
    assert "Not compared: fewer than 20 people" in section
    assert "AUROC" not in section
    assert page.count("– Not compared") == 1


@pytest.mark.parametrize(
    ("cohort", "words"),
    [
        ({"index": "discharge"}, "at the end of every hospital stay"),
        ({"index": "first=/a/b/heart_failure.yaml"}, "at the first record of heart failure"),
        ({"index": "file=/somebody/cohort.parquet"}, "at the times of a given list"),
        ({"index": "file=x", "index_title": "at a random visit"}, "at a random visit"),
    ],
)
def test_the_index_is_told_in_words(cohort: dict[str, Any], words: str) -> None:
    assert when_asked(cohort) == words


def test_code_names_cannot_inject_html(metrics: dict[str, Any]) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    poisoned = copy.deepcopy(metrics)
    poisoned["predictions"]["tasks"][1]["title"] = evil
    del poisoned["predictions"]["tasks"][0]
    poisoned["synthetic"]["labs"] = [
        {"label": evil, "unit": evil, "synthetic": 0.1, "ceiling": None}
    ]
    subject = poisoned["timelines"]["subjects"][0]
    subject["title"] = evil
    subject["events"][0]["label"] = evil
    poisoned["timelines"]["rollouts"]["outcome"] = evil
    poisoned["omop"]["failed"][0]["name"] = evil
    poisoned["provenance"]["commands"] = [evil]
    page = render(poisoned)
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page


def test_ids_are_unique(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_the_bytes_repeat(metrics: dict[str, Any]) -> None:
    part = {"schema": 1, "timelines": metrics["timelines"]}
    assert render(json.loads(json.dumps(part))) == render(part)


def test_any_section_may_stand_alone(metrics: dict[str, Any]) -> None:
    for name in ("cohort", "predictions", "synthetic", "omop", "timelines", "provenance"):
        assert "</html>" in render({"schema": 1, name: metrics[name]})
    assert "</html>" in render({"schema": 1})


def test_the_verb_writes_the_page(made_up_evaluation: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    shutil.copy(made_up_evaluation / "omop.json", tmp_path)
    result = CliRunner().invoke(app, ["report", str(tmp_path), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert out.read_text().startswith("<!doctype html>")


def test_a_timeline_that_cannot_be_drawn_is_refused(metrics: dict[str, Any]) -> None:
    broken = copy.deepcopy(metrics)
    del broken["timelines"]["subjects"][1]["events"][0]["day"]
    with pytest.raises(FormatError, match=r"subjects\[1\].events\[0\] lacks day"):
        render(broken)


def test_numbers_read_well() -> None:
    assert estimate({"value": 0.5, "lower": 0.25, "upper": None}) == "0.50"
    assert estimate(None) == "–"
    assert count_text("<11") == "<11"
    assert count_text(12345) == "12\u202f345"


@pytest.mark.slow
def test_the_page_fits_a_laptop_in_a_browser(made_up_evaluation: Path, tmp_path: Path) -> None:
    browser = next(
        (found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None
    )
    if browser is None:
        pytest.skip("no Chromium on this machine")
    out = write_report(made_up_evaluation, tmp_path / "report.html")
    probe = "<script>document.title=document.documentElement.scrollWidth</script></body>"
    page = out.read_text().replace("</body>", probe)
    # the probe needs a script, which the page's own policy forbids: measured in a copy
    page = page.replace("style-src", "script-src 'unsafe-inline'; style-src")
    copy_path = tmp_path / "copy.html"
    copy_path.write_text(page)
    call = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    call += ["--disable-background-networking", "--disable-sync", "--window-size=1280,900"]
    call += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", copy_path.as_uri()]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"<title>(\d+)</title>", done.stdout)
    assert found is not None
    assert int(found.group(1)) <= 1280
