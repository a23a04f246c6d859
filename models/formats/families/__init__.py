"""The layouts of Hugging Face that our models can be read from and written to."""

from __future__ import annotations

from models.formats.families.family import Family
from models.formats.families.fla import Rwkv6Fla, Rwkv7Fla
from models.formats.families.gpt2 import GPT2
from models.formats.families.llama import Llama
from models.formats.families.rwkv import Rwkv4, Rwkv5, Rwkv6

FAMILIES: tuple[Family, ...] = (
    Rwkv4(),
    Rwkv5(),
    Rwkv6Fla(),
    Rwkv6(),
    Rwkv7Fla(),
    Llama(),
    GPT2(),
)
"""Where two are of one model, the first is written."""
