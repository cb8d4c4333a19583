"""Figures of a prediction task, drawn from metrics.json alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from chronoward.evaluation.svg import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    RED,
    canvas,
    inline,
    note,
    numbers,
)

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

SCORES = {
    "model": ("model", BLUE, "o"),
    "bag_of_codes": ("bag of codes", GREEN, "s"),
    "had_it_before": ("had it before", ORANGE, "^"),
    "age_sex": ("age × sex", PURPLE, "D"),
}
PERCENT = FuncFormatter(lambda value, _: f"{100 * value:g} %")


def roc_and_precision(task: dict[str, Any], name: str) -> Markup:
    """ROC and precision-recall curves side by side."""
    curves, group = task["curves"], task["groups"][task["primary_group"]]
    with canvas(10.2, 3.8) as figure:
        left, right = figure.subplots(1, 2)
        roc = curves["roc"]
        left.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
        left.plot(roc["false_positive_rate"], roc["true_positive_rate"], color=BLUE)
        left.text(0.97, 0.03, f"AUROC {_short(group['model']['auroc'])}", ha="right", color=BLUE)
        left.set(
            title="ROC",
            xlabel="share of non-events flagged",
            ylabel="share of events found",
            xlim=(0, 1),
            ylim=(0, 1.01),
        )
        curve = curves["precision_recall"]
        prevalence = group["model"]["prevalence"]
        right.axhline(prevalence, color=GREY, linestyle="--", linewidth=1)
        right.text(0.01, prevalence, "chance (prevalence)", ha="left", va="bottom", color=INK)
        right.plot(curve["recall"], curve["precision"], color=BLUE)
        top = max(max(numbers(curve["precision"]), default=0), 2 * prevalence)
        right.set(
            title="Precision and recall",
            xlabel="share of events found",
            ylabel="share of the flagged that are events",
            xlim=(0, 1),
            ylim=(0, min(1.02, 1.1 * top)),
        )
        right.xaxis.set_major_formatter(PERCENT)
        right.yaxis.set_major_formatter(PERCENT)
        return inline(figure, name, f"ROC and precision-recall curves for {task['title']}")


def _short(estimate: dict[str, Any]) -> str:
    if estimate["value"] is None:
        return "–"
    if estimate["lower"] is None:
        return f"{estimate['value']:.2f}"
    return f"{estimate['value']:.2f} ({estimate['lower']:.2f}–{estimate['upper']:.2f})"


def calibration(task: dict[str, Any], name: str) -> Markup:
    """Observed against predicted risk, and how predictions are distributed below."""
    curve, histogram = task["curves"]["calibration"], task["curves"]["histogram"]
    with canvas(4.6, 4.3) as figure:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        bins = curve["bins"]
        reach = max(
            [b["predicted"] for b in bins]
            + [b["upper"] or b["observed"] for b in bins]
            + [histogram["edges"][-1]]
        )
        limit = min(1.0, 1.05 * reach)
        top.plot([0, limit], [0, limit], color=GREY, linestyle="--", linewidth=1)
        if curve.get("smooth"):
            smooth = curve["smooth"]
            top.plot(smooth["predicted"], smooth["observed"], color=BLUE, alpha=0.6)
        for one in bins:
            if one["lower"] is not None:
                interval = [one["lower"], one["upper"]]
                top.plot([one["predicted"]] * 2, interval, color=BLUE, linewidth=1)
        points = ([b["predicted"] for b in bins], [b["observed"] for b in bins])
        top.plot(*points, "o", color=BLUE, markersize=5)
        top.text(limit * 0.99, limit * 0.9, "perfect", ha="right", color=INK)
        top.set(title="Calibration", ylabel="observed share", xlim=(0, limit), ylim=(0, limit))
        edges = histogram["edges"]
        width = edges[1] - edges[0]
        for key, color, label in (("no_event", GREY, "no event"), ("event", RED, "event")):
            counts = numbers(histogram[key])
            heights = [0.0 if c != c else c for c in counts]
            bottom.bar(edges[:-1], heights, width, align="edge", color=color, label=label)
        bottom.set_yscale("symlog", linthresh=10)
        bottom.set_ylim(bottom=0)
        bottom.set(xlabel="predicted risk", ylabel="rows")
        bottom.legend(ncols=2, loc="upper right", fontsize=8)
        bottom.xaxis.set_major_formatter(PERCENT)
        top.yaxis.set_major_formatter(PERCENT)
        return inline(figure, name, f"Calibration of the risk of {task['title']}")


def groups(task: dict[str, Any], name: str) -> Markup:
    """AUROC of the model and the baselines among incident, recurrent and all rows."""
    with canvas(10.2, 2.4) as figure:
        panels = figure.subplots(1, 3, sharex=True, sharey=True)
        order = [score for score in SCORES if score == "model" or score in task["baselines_fitted"]]
        for axes, group in zip(panels, ("incident", "recurrent", "all"), strict=True):
            _group_panel(axes, task["groups"][group], order)
            axes.set_title(group)
            axes.set_xlabel("AUROC")
        panels[0].set_yticks(range(len(order)), [SCORES[score][0] for score in order])
        panels[0].set_ylim(len(order) - 0.5, -0.5)
        return inline(figure, name, "AUROC of the model beside baselines, by group")


def _group_panel(axes: Axes, group: dict[str, Any], order: list[str]) -> None:
    axes.axvline(0.5, color=GREY, linestyle="--", linewidth=1)
    if "model" not in group:
        axes.text(
            0.5, 0.5, "insufficient\nfollow-up", transform=axes.transAxes, ha="center", color=INK
        )
        return
    for place, score in enumerate(order):
        found = group["model"] if score == "model" else group["baselines"].get(score)
        if found is None or found["auroc"]["value"] is None:
            continue
        area, (_, color, marker) = found["auroc"], SCORES[score]
        if area["lower"] is not None:
            axes.plot([area["lower"], area["upper"]], [place, place], color=color)
        axes.plot(area["value"], place, marker, color=color, markersize=6)
    axes.set_xlim(0.4, 1.0)


def subgroups(task: dict[str, Any], name: str) -> Markup | None:
    """Forest plot of AUROC by sex, age, both, silence and year; None without a subgroup."""
    lines: list[tuple[str, dict[str, Any] | None]] = []
    for kind in ("sex", "age", "age and sex", "time since the last event", "calendar year"):
        rows = task["subgroups"].get(kind)
        if rows:
            lines.append((kind, None))
            lines += [(f"{row['label']}", row) for row in rows]
    if not lines:
        return None
    whole = task["groups"][task["primary_group"]]["model"]["auroc"]["value"]
    with canvas(10.2, 0.6 + 0.2 * len(lines)) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        left.axvline(whole, color=BLUE, linewidth=1, alpha=0.5)
        right.axvline(1.0, color=GREY, linestyle="--", linewidth=1)
        for place, (_, row) in enumerate(lines):
            if row is None:
                continue
            if "auroc" not in row:
                left.text(0.41, place, "too few events", va="center", fontsize=8, color="#5c626b")
                continue
            for axes, key in ((left, "auroc"), (right, "observed_expected")):
                found = row[key]
                if found["value"] is None:
                    continue
                if found["lower"] is not None:
                    axes.plot([found["lower"], found["upper"]], [place, place], color=BLUE)
                axes.plot(found["value"], place, "o", color=BLUE, markersize=5)
        left.set_yticks(range(len(lines)), [label for label, _ in lines])
        for tick, (_, row) in zip(left.get_yticklabels(), lines, strict=True):
            tick.set_fontweight("bold" if row is None else "normal")
        left.set_ylim(len(lines) - 0.5, -0.5)
        left.set(title="AUROC", xlim=(0.4, 1.0))
        right.set(title="observed / expected", xscale="log", xlim=(0.33, 3.0))
        right.xaxis.set_major_locator(FixedLocator([0.5, 0.8, 1.0, 1.25, 2.0]))
        right.xaxis.set_minor_locator(NullLocator())
        right.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        return inline(figure, name, "AUROC and observed over expected by subgroup")


def decision_curve(task: dict[str, Any], name: str) -> Markup:
    """Net benefit over thresholds, beside treating all and none."""
    curve = task["curves"]["decision_curve"]
    with canvas(4.6, 3.2) as figure:
        axes = figure.subplots()
        axes.plot(curve["threshold"], curve["model"], color=BLUE, marker="o", markersize=3)
        axes.plot(curve["threshold"], curve["treat_all"], color=ORANGE, linestyle="--")
        axes.axhline(0, color=GREY, linewidth=1)
        prevalence = task["groups"][task["primary_group"]]["model"]["prevalence"]
        shown = max([*numbers(curve["model"]), prevalence])
        axes.set_ylim(-0.25 * shown, 1.15 * shown)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator([0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(PERCENT)
        axes.set(
            title="Decision curve", xlabel="act when the risk is at least", ylabel="net benefit"
        )
        axes.legend(
            handles=axes.lines[:3],
            labels=["act by the model", "act for everybody", "act for nobody"],
            fontsize=8,
            loc="upper right",
        )
        return inline(figure, name, f"Decision curve for {task['title']}")


def incidence(task: dict[str, Any], name: str) -> Markup | None:
    """Observed cumulative incidence by third of predicted risk, with the mean prediction."""
    if not task.get("survival"):
        return None
    found = task["survival"]["incidence"]
    with canvas(4.6, 3.2) as figure:
        axes = figure.subplots()
        if not found["groups"]:
            note(figure, "too few rows")
        for group, color in zip(reversed(found["groups"]), (RED, ORANGE, BLUE), strict=False):
            steps = {"where": "post", "color": color, "label": group["label"]}
            axes.step(found["days"], group["observed"], **steps)
            axes.plot(found["days"][-1], group["mean_risk"], "D", color=color, markersize=6)
        axes.legend(loc="upper left", fontsize=8)
        axes.yaxis.set_major_formatter(PERCENT)
        axes.set(
            title="Who got it, by third of predicted risk",
            xlabel="days since the prediction",
            ylabel="had the outcome",
        )
        axes.set_ylim(bottom=0)
        return inline(figure, name, "Cumulative incidence by third of predicted risk")
