"""The elementwise work around the WKV operators and around attention, each in one pass over memory.

Both families get the same care, or the comparison would measure it. On a CPU these cost more than
the recurrence when written as chains of torch operations.
"""

from models.ops.elementwise.gates import gate, squared_relu, swiglu
from models.ops.elementwise.norms import bonus_head_norm, gated_head_norm, rms_norm
from models.ops.elementwise.rotation import rotate
from models.ops.elementwise.rwkv7 import delta_keys, log_decay, value_residual
from models.ops.elementwise.shift import dynamic_mix, token_shift_mix

__all__ = [
    "bonus_head_norm",
    "delta_keys",
    "dynamic_mix",
    "gate",
    "gated_head_norm",
    "log_decay",
    "rms_norm",
    "rotate",
    "squared_relu",
    "swiglu",
    "token_shift_mix",
    "value_residual",
]
