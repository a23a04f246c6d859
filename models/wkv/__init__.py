"""The WKV operators: public functions here, readable references and native bindings beside."""

from models.wkv.operator import wkv4, wkv4_flops, wkv4_initial_state

__all__ = ["wkv4", "wkv4_flops", "wkv4_initial_state"]
