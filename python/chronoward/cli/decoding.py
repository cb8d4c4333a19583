"""Options of every verb that draws timelines: where it decodes and in which numbers."""

from __future__ import annotations

from typing import Annotated

import typer

Device = Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU where there is one.")]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="Arithmetic of decoding: float32 (a CPU's own), bfloat16 (a GPU's own) or int8 (CPU "
        "only); fewer bits are faster and rounded.",
        show_default=False,
    ),
]
KvDtype = Annotated[
    str | None,
    typer.Option(
        help="Keys and values on a GPU: fp8 takes half of bfloat16's memory, more rounded.",
        show_default=False,
    ),
]
