"""Runs in CEHR-GPT's environment: ETHOS time tokens of gaps, by cehrbert_data 0.2.3.

Usage: python ethos_gaps.py GAPS.json OUT.json; GAPS.json is a list of minutes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from cehrbert_data.decorators.patient_event_decorator_base import ethos_time_tokens_func

gaps = json.loads(Path(sys.argv[1]).read_text())
found = {str(gap): ethos_time_tokens_func(gap) for gap in gaps}
Path(sys.argv[2]).write_text(json.dumps(found))
