"""The whole way through, once: source → tokens → model → risks, synthetic patients → one page."""

from __future__ import annotations

from chronoward.demo.run import DemoConfig, demo

__all__ = ["DemoConfig", "demo"]
