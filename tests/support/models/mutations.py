"""Seeded damage to files: of their bytes, of JSON in them, and of PyTorch's zip archives and the pickles within.

Every function takes the content of a sound file and a `random.Random`, and returns what a disk, a download, an editor or an
attacker may have made of it.
"""

import io
import json
import struct
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

Mutation = Callable[[bytes, Random], bytes]

# What stands in place of a value: every kind of JSON, and sizes that a parser may trip over.
_VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 3, 2**31, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "x", "llama", "\ud800", "\x00", "../x", "/dev/zero", "a" * 3000, "\u202e", "１２"),
    *([], [[]], [None], [0, 0], ["x"] * 9, {}, {"x": {}}, {"": None}, [[[[[]]]]]),
]
# Bytes of pickle instructions: tuples of tuples that double, numbers, marks, calls, names.
_PICKLED = [
    b"N" + b"\x86h\x00h\x00" * 40,
    b")" + b"q\x07h\x07h\x07\x86" * 60,
    b"\x8a\x08" + b"\xff" * 7 + b"\x7f",
    b"J\xff\xff\xff\xff",
    b"K\x00",
    b"(",
    b"t",
    b"R",
    b"b",
    b"0",
    b"2" * 50,
    b"]" * 2000,
    b"(" * 2000,
    b"\x85" * 5000,
    b"cos\nsystem\n",
    b"cbuiltins\neval\n",
    b"X\xff\xff\xff\x7f",
    b"\x8e" + b"\xff" * 8,
    b".",
]
_CONTROL = (
    "version",
    "byteorder",
    ".format_version",
    ".storage_alignment",
    ".data/serialization_id",
    "constants.pkl",
    "code/x.py",
)
_CONTENTS = (b"", b"0", b"3\n", b"-1", b"999999999999999999999", b"x", b"\xff" * 20, b"64", b"big", b"little", b"1.5", b" 3")


def bytes_anywhere(content: bytes, chance: Random) -> bytes:
    """Bits flipped; a span lost, repeated, exchanged, zeroed or made noise; the end cut off. Mostly near either end."""
    data = bytearray(content)

    def place() -> int:
        near = min(len(data), chance.choice((64, 600, 4000, len(data))))
        at = chance.randrange(max(1, near))
        return at if chance.random() < 0.6 else max(0, len(data) - 1 - at)

    start, length = place(), chance.choice((1, 2, 4, 8, 30, 500))
    span = bytes(data[start : start + length])
    match chance.randrange(8):
        case 0 | 1:
            for _ in range(chance.choice((1, 1, 1, 3, 20))):
                if data:
                    data[place() % len(data)] ^= 1 << chance.randrange(8)
        case 2:
            del data[start:]
        case 3:
            del data[start : start + length]
        case 4:
            data[start:start] = span * chance.choice((1, 2, 100))
        case 5:
            other = place()
            data[start : start + length], data[other : other + length] = data[other : other + length], span
        case 6:
            data[start : start + length] = bytes([chance.choice((0, 255, 0x7B, 0x80))]) * length
        case _:
            data[start : start + length] = chance.randbytes(length)
    return bytes(data)


def json_value(content: bytes, chance: Random) -> bytes:
    """One value of a JSON document replaced, removed, doubled or put under another key; or text around it changed."""
    document = json.loads(content)
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            places.append((value, key))
            walk(value[key])

    walk(document)
    holder, key = chance.choice(places)
    match chance.randrange(8):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[chance.choice((key + "x", key.upper(), "", "model." + key, "\ud800"))] = holder.pop(key)
        case 2:
            holder[key] = [holder[key]]
        case 3 if isinstance(holder[key], (int, float)):
            holder[key] = chance.choice((-1, 2, 1000, 2**40, 10**25, 0.001)) * holder[key]
        case 4:
            holder[key] = "@"
            deep = chance.choice((100, 990, 100_000))
            return json.dumps(document).replace('"@"', "[" * deep + "]" * deep, 1).encode()
        case 5:
            text = json.dumps(document)
            return chance.choice(
                (
                    text.encode("utf-16"),
                    b"\xef\xbb\xbf" + text.encode(),
                    b"[" + text.encode() + b"]",
                    text.encode() * 2,
                    b"null",
                )
            )
        case _:
            holder[key] = chance.choice(_VALUES)
    return json.dumps(document).encode()


def safetensors_header(content: bytes, chance: Random) -> bytes:
    """A value in the header replaced, and the header's length as it then is, or another."""
    length = struct.unpack("<Q", content[:8])[0]
    header = json_value(content[8 : 8 + length], chance)
    said = len(header) if chance.random() < 0.9 else chance.choice((0, 1, 2**20, 99_999_999, 2**63, 2**64 - 1))
    return struct.pack("<Q", said) + header + content[8 + length :]


def archive_entry(content: bytes, chance: Random) -> bytes:
    """An entry of a PyTorch archive lost, renamed, doubled, compressed or filled with something else, checksums in order."""
    entries = _entries(content)
    names = list(entries)
    folder = names[0].partition("/")[0]
    name = chance.choice(names)
    match chance.randrange(7):
        case 0:
            del entries[name]
        case 1:
            entries[chance.choice((f"../{name}", f"/{name}", f"x/{name}", name.upper(), f"{folder}/data/99"))] = entries.pop(
                name
            )
        case 2 | 3:
            entries[f"{folder}/{chance.choice(_CONTROL)}"] = chance.choice(_CONTENTS)
        case 4:
            entries = {chance.choice(("outside", "other/x", f"{folder}x/y")): b"x", **entries}
        case 5:
            entries[name] = bytes_anywhere(entries[name], chance)
        case _:
            entries[name] = entries[name][: chance.randrange(len(entries[name]) + 1)]
    return _archive(entries, zipfile.ZIP_DEFLATED if chance.random() < 0.1 else zipfile.ZIP_STORED)


def archived_pickle(content: bytes, chance: Random) -> bytes:
    """The pickle of a PyTorch archive with other bytes or instructions, under a checksum that agrees."""
    entries = _entries(content)
    name = next(name for name in entries if name.endswith("/data.pkl"))
    data = bytearray(entries[name])
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(2, len(data))
        if chance.random() < 0.5:
            data[at] = chance.choice(data) if chance.random() < 0.7 else chance.randrange(256)
        else:
            data[at : at + chance.choice((0, 0, 1, 5))] = chance.choice(_PICKLED)
    entries[name] = bytes(data)
    return _archive(entries, zipfile.ZIP_STORED)


def _entries(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _archive(entries: dict[str, bytes], method: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return stream.getvalue()
