"""Figures of synthetic fidelity and of timelines one can look at."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from chronoward.evaluation.svg import (
    BLUE,
    DOMAIN_COLORS,
    GREY,
    INK,
    ORANGE,
    RED,
    canvas,
    inline,
    numbers,
)

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

OVERLAYS = {
    "gap_days": "Days between visits",
    "age_years": "Age at the first visit (years)",
    "visits": "Visits per subject",
    "events": "Events per subject",
    "span_years": "Years from first to last visit",
}
SHORT_DAYS = 365.25  # a record shorter than this is drawn in days: ages would be all the same
LANES = ("condition", "drug", "procedure", "measurement", "observation", "device", "other")


def prevalence(section: dict[str, Any], name: str) -> Markup:
    """Share of subjects by code, real against synthetic and against held-out."""
    points = section["prevalence"]
    with canvas(10.2, 4.8) as figure:
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        shares = [p["train"] for p in points] or [0.01]
        low = 0.5 * min(shares)
        for axes, key in zip(panels, ("synthetic", "held_out"), strict=True):
            axes.plot([low, 1], [low, 1], color=GREY, linewidth=1, linestyle="--")
            for domain, color in DOMAIN_COLORS.items():
                chosen = [p for p in points if p["domain"] == domain]
                if chosen:
                    axes.plot(
                        [p["train"] for p in chosen],
                        [max(p[key], low) for p in chosen],
                        "o",
                        color=color,
                        markersize=3.5,
                        alpha=0.7,
                        markeredgewidth=0,
                        label=domain,
                    )
            axes.set(xscale="log", yscale="log", xlim=(low, 1.1), ylim=(low * 0.9, 1.1))
            axes.set_xlabel("share of train subjects with the code")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(LogLocator(10, subs=(1.0, 3.0)))
                axis.set_minor_locator(NullLocator())
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        panels[0].set(title="synthetic", ylabel="share with the code")
        panels[1].set(title="held-out real subjects (the ceiling)")
        panels[0].legend(fontsize=7, loc="upper left", markerscale=1.6)
        return inline(figure, name, "Prevalence of each code, real against synthetic")


def overlays(section: dict[str, Any], name: str) -> Markup:
    """Gaps, ages and lengths: real, held-out and synthetic over each other."""
    shown = [key for key in OVERLAYS if key in section["overlays"]]
    with canvas(10.2, 2.5 * ((len(shown) + 2) // 3)) as figure:
        panels = figure.subplots((len(shown) + 2) // 3, 3, squeeze=False).ravel()
        for axes, key in zip(panels, shown, strict=False):
            _overlay(axes, section["overlays"][key])
            axes.set_title(OVERLAYS[key], fontsize=9)
        for axes in panels[len(shown) :]:
            axes.axis("off")
        if len(shown) < len(panels):
            panels[-1].legend(*panels[0].get_legend_handles_labels(), loc="center left", fontsize=9)
        else:
            panels[0].legend(fontsize=7)
        return inline(figure, name, "Gaps, ages and lengths, real and synthetic")


def _overlay(axes: Axes, found: dict[str, Any]) -> None:
    edges = found["edges"]
    real = [0.0 if v != v else v for v in numbers(found["train"])]
    axes.stairs(real, edges, fill=True, color="#d5d9de", label="train (real)")
    for key, color, style, label in (
        ("held_out", INK, ":", "held-out (real)"),
        ("synthetic", BLUE, "-", "synthetic"),
    ):
        values = [0.0 if v != v else v for v in numbers(found[key])]
        axes.stairs(values, edges, color=color, linestyle=style, linewidth=1.4, label=label)
    if found["logarithmic"]:
        axes.set_xscale("symlog", linthresh=max(edges[1], 1.0))
        axes.set_xlim(max(edges[0], 0), edges[-1])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_yticks([])


def timeline(subject: dict[str, Any], name: str) -> Markup:
    """One subject: a lane a domain, bars for visits, age along the bottom (days if it is short)."""
    lanes = [lane for lane in LANES if any(_lane(e) == lane for e in subject["events"])]
    with canvas(10.2, 0.8 + 0.3 * (len(lanes) + 1)) as figure:
        axes = figure.subplots()
        start, end = subject.get("age_years"), subject.get("end_day")
        last = max([e["day"] for e in subject["events"]] + [v["end"] for v in subject["visits"]])
        is_short = max(last, end or 0.0) < SHORT_DAYS
        scale, offset = (1.0, 0.0) if is_short else (365.25, start or 0.0)
        places = [e["day"] / scale + offset for e in subject["events"]]
        _draw_lanes(axes, subject, lanes, scale=scale, offset=offset)
        if end is not None:
            dead = subject.get("end") == "death"
            axes.axvline(end / scale + offset, color=INK if dead else GREY, linewidth=1.5)
            label = "death" if dead else "end of observation"
            axes.text(end / scale + offset, -1.0, f"{label} ", ha="right", fontsize=8)
        unit = "days" if is_short else "years"
        told = f"{unit} since the first visit"
        axes.set_xlabel(told if is_short or start is None else "age in years")
        low, high = min([offset, *places]), max([*places, (end or 0) / scale + offset])
        high = max(high, last / scale + offset)
        margin = 0.02 * max(high - low, 0.1 if scale > 1 else 1.0)
        axes.set_xlim(low - margin, high + margin)
        axes.set_ylim(len(lanes) + 0.6, -1.4)
        return inline(figure, name, subject["title"])


def _lane(event: dict[str, Any]) -> str:
    return event["domain"] if event["domain"] in LANES else "other"


def _draw_lanes(
    axes: Axes, subject: dict[str, Any], lanes: list[str], *, scale: float, offset: float
) -> None:
    spread = [e["day"] for e in subject["events"]]
    spread += [day for v in subject["visits"] for day in (v["start"], v["end"])]
    thinnest = 0.002 * (max(spread, default=0.0) - min(spread, default=0.0)) / scale
    for visit in subject["visits"]:
        left = visit["start"] / scale + offset
        inpatient = visit.get("inpatient", visit["type"] in ("IP", "ERIP"))
        width = max((visit["end"] - visit["start"]) / scale, thinnest)
        color = RED if inpatient else "#aab4c0"
        axes.barh(len(lanes), width, left=left, height=0.6, color=color, edgecolor=color)
    for place, lane in enumerate(lanes):
        days = [e["day"] / scale + offset for e in subject["events"] if _lane(e) == lane]
        color = DOMAIN_COLORS[lane]
        axes.plot(days, [place] * len(days), "|", color=color, markersize=11, markeredgewidth=1.3)
    axes.set_yticks(range(len(lanes) + 1), [*lanes, "visits"])
    axes.grid(axis="y", visible=False)


def fan(rollouts: dict[str, Any], name: str) -> Markup:
    """One prefix and what the model imagines after it: prompt | generated, the risk below."""
    prefix, paths = rollouts["prefix"], rollouts["paths"]
    lanes = [lane for lane in LANES if any(_lane(e) == lane for e in prefix["events"])]
    risk = rollouts.get("risk")
    heights = [0.26 * (len(lanes) + 1), 0.13 * max(len(paths), 1)] + ([1.5] if risk else [])
    with canvas(10.2, 1.5 + sum(heights)) as figure:
        panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
        top, middle = panels[0], panels[1]
        _draw_lanes(top, prefix, lanes, scale=1.0, offset=0.0)
        top.set_ylim(len(lanes) + 0.6, -0.8)
        top.set_title("what is known")
        _draw_paths(middle, paths)
        middle.set_title(f"{len(paths)} possible futures drawn from the model")
        horizon = rollouts["horizon_days"]
        if risk:
            _draw_risk(panels[2], risk, str(rollouts["outcome"]))
        past = min([e["day"] for e in prefix["events"]] + [-30.0])
        for axes in panels:
            axes.axvline(0, color=INK, linewidth=1.2)
            axes.axvspan(0, horizon * 1.02, color="#eef5fa", zorder=0, linewidth=0)
            axes.set_xlim(max(past, -1.5 * horizon), horizon * 1.02)
        panels[-1].set_xlabel("days from the prediction   (left: prompt | right: generated)")
        return inline(figure, name, rollouts["title"])


def _draw_paths(axes: Axes, paths: list[dict[str, Any]]) -> None:
    for place, path in enumerate(paths):
        end = path["end_day"]
        dead = path.get("end") == "death"
        axes.plot([0, end], [place, place], color="#cfd6de", linewidth=1, zorder=1)
        for domain in LANES:
            days = [e["day"] for e in path["events"] if _lane(e) == domain]
            axes.plot(
                days, [place] * len(days), "|", color=DOMAIN_COLORS[domain], markersize=5, zorder=2
            )
        if dead:
            axes.plot(end, place, "x", color=INK, markersize=6, markeredgewidth=1.6, zorder=3)
        if path.get("outcome_day") is not None:
            axes.plot(
                path["outcome_day"],
                place,
                "*",
                color=RED,
                markersize=11,
                markeredgecolor="white",
                zorder=4,
            )
    axes.set_ylim(len(paths) - 0.3, -0.7)
    axes.set_yticks([])
    axes.grid(axis="y", visible=False)


def _draw_risk(axes: Axes, risk: dict[str, Any], outcome: str) -> None:
    axes.plot(risk["days"], risk["mean"], color=RED)
    if risk.get("lower") and risk.get("upper"):
        axes.fill_between(risk["days"], risk["lower"], risk["upper"], color=ORANGE, alpha=0.25)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
    axes.set_title(textwrap.shorten(f"risk of {outcome.lower()} up to that day", 80))
