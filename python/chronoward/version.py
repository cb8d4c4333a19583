"""The installed distribution's version; a module of its own, since finding it out takes longer than
the rest of `import chronoward`."""

from __future__ import annotations

from importlib.metadata import version

__version__ = version("chronoward")
