"""Elementwise formulas around the WKV operators and around attention, each one pass over memory.

Both families get the same care, or the comparison would measure it: on a CPU, chains of torch
operations would cost more than the recurrence. `fused.py` is how a formula gets its native pass.
Here are those that several models share; the others stand in the models.
"""

from models.ops.elementwise.gates import gate, squared_relu
from models.ops.elementwise.rotation import rotate
from models.ops.elementwise.shift import shifted, token_shift_mix

__all__ = ["gate", "rotate", "shifted", "squared_relu", "token_shift_mix"]
