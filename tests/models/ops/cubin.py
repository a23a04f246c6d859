"""What a compiled CUDA kernel takes of a multiprocessor, read from its cubin (an ELF file)."""

from __future__ import annotations

import struct
from typing import NamedTuple

_SYMBOLS, _REGISTERS, _FRAME = 2, 0x2F, 0x11  # section type; attributes in .nv.info


class Resources(NamedTuple):
    """Of one thread: registers, and bytes of stack, which is where spilled registers go."""

    registers: int
    stack: int


def resources(cubin: bytes) -> dict[str, Resources]:
    """By kernel."""
    offset, size, count, names = _header(cubin)
    sections = [
        struct.unpack_from("<IIQQQQI", cubin, offset + i * size) for i in range(count)
    ]  # name, type, flags, address, offset, size, link
    name_table = sections[names][4]
    symbols = next(s for s in sections if s[1] == _SYMBOLS)
    symbol_names = sections[symbols[6]][4]

    def symbol(number: int) -> str:
        (name,) = struct.unpack_from("<I", cubin, symbols[4] + 24 * number)
        return _text(cubin, symbol_names + name)

    info = next(s for s in sections if _text(cubin, name_table + s[0]) == ".nv.info")
    found: dict[str, dict[int, int]] = {}
    at = info[4]
    while at < info[4] + info[5]:
        form, attribute, length = struct.unpack_from("<BBH", cubin, at)
        at += 4
        if form != 4:
            continue
        if length == 8:
            number, value = struct.unpack_from("<II", cubin, at)
            found.setdefault(symbol(number), {})[attribute] = value
        at += length
    return {
        name: Resources(values[_REGISTERS], values[_FRAME])
        for name, values in found.items()
        if _REGISTERS in values
    }


def _header(cubin: bytes) -> tuple[int, int, int, int]:
    """Of the section table: where it is, bytes and number of entries, which one holds names."""
    (offset,) = struct.unpack_from("<Q", cubin, 0x28)
    return offset, *struct.unpack_from("<HHH", cubin, 0x3A)


def _text(cubin: bytes, at: int) -> str:
    return cubin[at : cubin.index(b"\0", at)].decode()
