"""The WKV operators: public functions here; references and native bindings in a folder each."""

from models.wkv.v4.operator import wkv4, wkv4_flops, wkv4_initial_state

__all__ = ["wkv4", "wkv4_flops", "wkv4_initial_state"]
