"""Matplotlib figures as SVG that may stand inside one HTML page.

The bytes repeat: fixed hash salt, no date, ids numbered. Nothing in them names a network address
(namespaces and metadata are cut; HTML knows SVG without them), and ids carry the figure's name, so
that two figures on a page do not borrow each other's clip paths. Text stays text: it can be
searched and read aloud.
"""

from __future__ import annotations

import html
import io
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator

# Okabe and Ito's colors: told apart with any kind of color vision, and in grey.
BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
RED, PURPLE, SKY, GREY, INK = "#D55E00", "#CC79A7", "#56B4E9", "#8a8f98", "#22262b"
DOMAIN_COLORS = {
    "condition": RED,
    "drug": BLUE,
    "procedure": GREEN,
    "measurement": ORANGE,
    "observation": PURPLE,
    "device": SKY,
    "visit": GREY,
    "death": INK,
    "other": "#b5b9c0",
}
SETTINGS: Any = {
    "svg.hashsalt": "chronoward",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#70757d",
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#e6e8eb",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "figure.facecolor": "white",
}
_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)
_NAMESPACE = re.compile(r'\sxmlns(:\w+)?="[^"]*"')


@contextmanager
def canvas(width: float, height: float) -> Iterator[Figure]:
    """A figure of `width` × `height` inches in the house's style."""
    with mpl.rc_context(SETTINGS):
        yield Figure(figsize=(width, height), layout="constrained")


def inline(figure: Figure, name: str, description: str) -> Markup:
    """The figure as an `<svg>` element.

    Args:
        figure: the figure.
        name: prefix of its ids, unique on the page.
        description: what a screen reader says.
    """
    buffer = io.StringIO()
    with mpl.rc_context(SETTINGS):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = _NAMESPACE.sub("", _METADATA.sub("", text[text.index("<svg") :]))
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    width = figure.get_figwidth() * 96
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = _renumbered(text, name)
    label = html.escape(description, quote=True)
    opening = f'<svg role="img" aria-label="{label}" style="width:100%;max-width:{width:.0f}px"'
    return Markup(text.replace("<svg", opening, 1))


def _renumbered(text: str, name: str) -> str:
    """Ids in order of appearance: matplotlib makes some of them from memory addresses."""
    places = {old: f"{name}-{n}" for n, old in enumerate(re.findall(r'\bid="([^"]+)"', text))}

    def rename(match: re.Match[str]) -> str:
        return match[1] + places.get(match[2], match[2]) + match[3]

    return re.sub(r'(\bid="|href="#|url\(#)([^")]+)([")])', rename, text)


def note(figure: Figure, text: str) -> None:
    """A figure that only says why there is nothing to see."""
    axes = figure.subplots()
    axes.axis("off")
    axes.text(0.5, 0.5, text, ha="center", va="center", color=GREY, wrap=True)


def numbers(values: list[Any]) -> list[float]:
    """Plot values: hidden counts (strings) and nulls become NaN."""
    return [float(v) if isinstance(v, int | float) else float("nan") for v in values]
