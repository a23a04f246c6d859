"""The WKV operators: public functions here; references and native bindings in a folder each."""

from models.ops.wkv4.operator import wkv4, wkv4_flops, wkv4_initial_state
from models.ops.wkv6.operator import wkv5, wkv5_flops, wkv6, wkv6_flops, wkv6_initial_state
from models.ops.wkv7.operator import wkv7, wkv7_flops, wkv7_initial_state

__all__ = [
    "wkv4",
    "wkv4_flops",
    "wkv4_initial_state",
    "wkv5",
    "wkv5_flops",
    "wkv6",
    "wkv6_flops",
    "wkv6_initial_state",
    "wkv7",
    "wkv7_flops",
    "wkv7_initial_state",
]
