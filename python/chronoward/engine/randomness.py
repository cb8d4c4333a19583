"""Which random numbers a draw uses: a function of what is drawn for, never of what ran before.

key = hash64(seed, stream); counter = (step, rollout, hash64(subject_id, prediction_time)); words
0, 1 and 2 of the block are the token, the duration and the value. The C++ sampler does the same.
"""

from __future__ import annotations

import numpy as np

from chronoward import philox


def stream_key(seed: int, stream: str) -> int:
    """The Philox key of a purpose; a string counts by its SHA-256."""
    return philox.hash64(seed, stream)


def draw_uniforms(
    key: int, *, subject_id: int, prediction_time_us: int, rollout: int, step: int
) -> tuple[float, float, float]:
    """The three numbers of one draw: token, duration, value, each strictly between 0 and 1."""
    subject = philox.hash64(subject_id, prediction_time_us)
    counter = np.array([[step, rollout, subject & 0xFFFFFFFF, subject >> 32]], np.uint32)
    token, duration, value, _ = philox.to_uniforms(philox.philox4x32(key, counter))[0]
    return float(token), float(duration), float(value)
