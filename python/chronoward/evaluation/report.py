"""Renders report.html from metrics.json and from nothing else.

The page is one file: styles and figures inline, no script, no address in it; a content security
policy forbids the browser to fetch anything. Every text from the data passes through autoescape.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from chronoward import __version__
from chronoward.evaluation import figures, figures_synthetic
from chronoward.evaluation.sections import METRICS, SECTIONS, combine, read_metrics
from chronoward.evaluation.suppression import is_hidden
from chronoward.evaluation.svg import DOMAIN_COLORS
from chronoward.evaluation.timelines import check_timelines
from chronoward.evaluation.verdict import NAMES
from chronoward.files import sha256_file, write_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_TIMELINES = 6
MOST_LISTED_EVENTS = 14
MOST_FAILED_CHECKS = 30


def write_report(folder: Path, out: Path) -> Path:
    """Renders the evaluation folder's metrics.json as one HTML file.

    Args:
        folder: evaluation folder (section files are merged first), or a metrics.json.
        out: the page.

    Returns:
        `out`.

    Raises:
        FormatError: metrics.json or a section is not readable.
        OSError: there is no metrics.json.
    """
    folder = Path(folder)
    if folder.is_dir() and any(path.name != METRICS for path in folder.glob("*.json")):
        combine(folder)
    source = folder / METRICS if folder.is_dir() else folder
    metrics = read_metrics(source)
    page = render(metrics, sha256=sha256_file(source))
    write_bytes(Path(out), page.encode("utf-8"))
    return Path(out)


def render(metrics: dict[str, Any], sha256: str = "") -> str:
    """The page as text.

    Args:
        metrics: content of metrics.json.
        sha256: of metrics.json, printed under provenance.
    """
    environment = Environment(
        loader=PackageLoader("chronoward.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        estimate=estimate,
        number=number,
        share=share,
        count=count_text,
        plain_name=plain_name,
        when_asked=when_asked,
        deaths_known=deaths_known,
    )
    timelines = metrics.get("timelines")
    if timelines:
        check_timelines(timelines)
    template = environment.get_template("report.html.j2")
    return template.render(
        metrics={name: metrics.get(name) for name in SECTIONS},
        tasks=metrics.get("predictions", {}).get("tasks", []),
        task_figures=_task_figures(metrics),
        synthetic_figures=_synthetic_figures(metrics),
        timeline_figures=_timeline_figures(timelines or {}),
        listed=listed_events(timelines or {}),
        names=NAMES,
        domain_colors=DOMAIN_COLORS,
        most_failed=MOST_FAILED_CHECKS,
        sha256=sha256,
        version=__version__,
    )


def _task_figures(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    drawn: list[dict[str, Any]] = []
    makers: dict[str, Callable[[dict[str, Any], str], Any]] = {
        "curves": figures.roc_and_precision,
        "calibration": figures.calibration,
        "groups": figures.groups,
        "subgroups": figures.subgroups,
        "decision": figures.decision_curve,
        "incidence": figures.incidence,
    }
    for place, task in enumerate(metrics.get("predictions", {}).get("tasks", [])):
        if not task["curves"]:
            drawn.append({})
            continue
        drawn.append({key: make(task, f"t{place}{key}") for key, make in makers.items()})
    return drawn


def _synthetic_figures(metrics: dict[str, Any]) -> dict[str, Any]:
    section = metrics.get("synthetic")
    if not section or section.get("reason"):
        return {}
    return {
        "prevalence": figures_synthetic.prevalence(section, "sprev"),
        "overlays": figures_synthetic.overlays(section, "sover"),
    }


def _timeline_figures(timelines: dict[str, Any]) -> dict[str, Any]:
    subjects = timelines.get("subjects", [])[:MOST_TIMELINES]
    found: dict[str, Any] = {
        "subjects": [
            (subject, figures_synthetic.timeline(subject, f"s{place}"))
            for place, subject in enumerate(subjects)
        ],
        "fan": None,
    }
    if timelines.get("rollouts"):
        found["fan"] = figures_synthetic.fan(timelines["rollouts"], "fan")
    return found


def listed_events(timelines: dict[str, Any]) -> list[dict[str, Any]]:
    """The first events of the first subject, in words."""
    subjects = timelines.get("subjects", [])
    if not subjects:
        return []
    start = subjects[0].get("age_years")
    events = subjects[0]["events"]
    is_short = max((e["day"] for e in events), default=0.0) < figures_synthetic.SHORT_DAYS
    rows = []
    for event in events[:MOST_LISTED_EVENTS]:
        years = event["day"] / 365.25 + (start or 0.0)
        when = f"day {event['day']:.1f}" if is_short else f"age {years:.2f}"
        rows.append({**event, "when": when})
    return rows


def estimate(found: dict[str, Any] | None, digits: int = 2) -> str:
    """ "0.81 (0.78 to 0.84)" with spaces that do not break, or a dash."""
    if not found or found["value"] is None:
        return "–"
    text = f"{found['value']:.{digits}f}"
    if found.get("lower") is None or found.get("upper") is None:
        return text
    interval = f"{text} ({found['lower']:.{digits}f} to {found['upper']:.{digits}f})"
    return interval.replace(" ", "\u00a0").replace("-", "\u2212")


def number(value: float | None, digits: int = 3) -> str:
    """A number with fixed digits, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "\u2212")


def share(value: float | None, digits: int = 1) -> str:
    """A share as a percentage, or a dash."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def count_text(value: Any) -> str:
    """A count with thin spaces, or what stands for a hidden one."""
    if value is None:
        return "–"
    return str(value) if is_hidden(value) else f"{value:,}".replace(",", "\u202f")


def when_asked(cohort: dict[str, Any]) -> str:
    """An index rule in words; a path on somebody's disk says nothing to a reader."""
    if cohort.get("index_title"):
        return str(cohort["index_title"])
    kind, _, argument = str(cohort["index"]).partition("=")
    return {
        "discharge": "at the end of every hospital stay",
        "random_visit": "once a person, at the end of the first visit from a random date on",
        "age": f"at age {argument}",
        "first": f"at the first record of {plain_name(Path(argument).stem)}",
        "file": "at the times of a given list",
    }.get(kind, plain_name(kind))


def deaths_known(ascertainment: str) -> str:
    """Where deaths come from, in words."""
    return {
        "unknown": "the records given; whether deaths elsewhere are among them was not stated",
        "in_hospital": "this hospital's records only",
        "linked": "a linked register",
    }.get(ascertainment, plain_name(ascertainment))


def plain_name(name: str) -> str:
    """An identifier as words."""
    return name.replace("_", " ")
