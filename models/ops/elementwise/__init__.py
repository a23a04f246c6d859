"""Elementwise formulas around the WKV operators and around attention, each one pass over memory.

Both families get the same care, or the comparison would measure it: chains of torch operations
would cost more than the recurrence, on a CPU and on a GPU. `fused.py` is how a formula gets its
native pass. Here are those that several models share; the others stand in the models.
"""

from models.ops.elementwise.gates import gate, squared_relu
from models.ops.elementwise.norms import add_layer_norm, add_rms_norm, layer_norm, rms_norm
from models.ops.elementwise.rotation import rotate
from models.ops.elementwise.shift import shifted, token_shift_mix

__all__ = [
    "add_layer_norm",
    "add_rms_norm",
    "gate",
    "layer_norm",
    "rms_norm",
    "rotate",
    "shifted",
    "squared_relu",
    "token_shift_mix",
]
