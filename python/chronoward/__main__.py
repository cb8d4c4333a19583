from __future__ import annotations

from chronoward.cli import main

main()
