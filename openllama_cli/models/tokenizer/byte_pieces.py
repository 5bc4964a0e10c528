"""Pieces that stand for bytes: `<0xE6>`, SentencePiece's byte fallback, and GPT-2's letters that stand for bytes."""

import codecs
import re
from collections.abc import Sequence
from functools import cache


def fallback_byte(piece: str) -> int | None:
    """The byte of a byte fallback piece, such as `<0x0A>`; None for any other."""
    return int(piece[3:5], 16) if re.fullmatch("<0x[0-9A-Fa-f]{2}>", piece) else None


def byte_level_bytes(piece: str) -> bytes | None:
    """The bytes of a byte-level piece, such as `Ġthe`; None where a letter stands for no byte."""
    stand_ins = _byte_level_stand_ins()
    return bytes(stand_ins[letter] for letter in piece) if all(letter in stand_ins for letter in piece) else None


def spelled(data: bytes) -> str:
    r"""Bytes as OpenAI spells a token: their text, or ``bytes:\xe6\x97`` where they are not whole characters."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}" for byte in data)


def join_bytes(pieces: Sequence[str | None]) -> list[str]:
    """Byte fallback pieces put together into characters, each byte that belongs to none replaced by U+FFFD.

    pieces: None for a token without text, which separates the bytes around it. The library's own ByteFallback gives up on a
    run of bytes when the last character is incomplete, so text that has been printed would change under later tokens.
    """
    joined: list[str] = []
    run = bytearray()
    for piece in [*pieces, None]:
        value = None if piece is None else fallback_byte(piece)
        if value is not None:
            run.append(value)
            continue
        joined += run.decode(errors="olc-replace-each-byte")
        run.clear()
        if piece is not None:
            joined.append(piece)
    return joined


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error("olc-replace-each-byte", _replace_each_byte)


@cache
def _byte_level_stand_ins() -> dict[str, int]:
    """GPT-2's table: printable Latin-1 bytes stand for themselves, the rest for the letters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(rest)}
