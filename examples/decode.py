#!/usr/bin/env python3
"""Decodes steps from a CSV of events, step,unit,value,bin (`cortex replay --events` writes one),
and prints step and velocity: decode.py MODEL EVENTS STEPS"""

# %% What to decode
import sys

import cortex_engine
import numpy as np

if len(sys.argv) != 4:
    sys.exit("usage: decode.py MODEL EVENTS STEPS")
model, path, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
table = np.loadtxt(path, delimiter=",", skiprows=1, dtype=np.int64, ndmin=2).reshape(-1, 4)
order = np.searchsorted(table[:, 0], np.arange(steps + 1))

# %% The engine: one session, one step after the other
engine = cortex_engine.Engine(model)
with engine.open() as session:
    velocity = np.stack([session.step(table[order[s]:order[s + 1], 1:]) for s in range(steps)])

# %% What came out
for step, row in enumerate(velocity):
    print(step, *(f"{v:.9g}" for v in row), sep=",")
