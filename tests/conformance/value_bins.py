"""Runs in CEHR-GPT's environment: the bin of every value, its bins made of the same values.

Usage: python value_bins.py VALUES.json OUT.json; VALUES.json is a list of numbers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from cehrgpt.models.tokenization_hf_cehrgpt import NumericEventStatistics, create_bins_with_spline

values = json.loads(Path(sys.argv[1]).read_text())
made = {"concept_id": "1", "unit": "u", "mean": 0.0, "std": 1.0, "value_outlier_std": 3.0}
made |= {"count": len(values), "bins": create_bins_with_spline(list(values), num_bins=10)}
statistics = NumericEventStatistics([made])
bins = [int(statistics.normalize("1", "u", value).split(":")[1]) for value in values]
Path(sys.argv[2]).write_text(json.dumps(bins))
