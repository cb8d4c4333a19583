"""A simulated clinic whose risks are known: OMOP tables, the exact truth, and planted faults.

The clinic is a hidden Markov model in weekly steps with discrete states, so the probability of an
outcome given what was *recorded* is computed, not estimated. See the simulator's rules in
`chains.py` (the machine), `diseases.py` (the clinic) and `panel.py` (what shows).
"""

from __future__ import annotations

from chronoward.data.simulate.config import SimulationConfig, draw_config, load_config
from chronoward.data.simulate.write import simulate

__all__ = ["SimulationConfig", "draw_config", "load_config", "simulate"]
