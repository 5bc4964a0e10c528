"""Pieces that stand for bytes: as GPT-2's table has them, as OpenAI spells them, and put together into characters."""

import pytest

from openllama_cli.models.tokenizer.byte_pieces import byte_level_bytes, fallback_byte, join_bytes, spelled


def test_letters_stand_for_the_bytes_that_transformers_takes_them_for() -> None:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    table = bytes_to_unicode()
    assert len(table) == 256
    assert {byte: byte_level_bytes(letter) for byte, letter in table.items()} == {byte: bytes([byte]) for byte in range(256)}
    assert byte_level_bytes("".join(table[byte] for byte in " é日".encode())) == " é日".encode()
    assert byte_level_bytes("the 日") is None


@pytest.mark.parametrize(("piece", "byte"), [("<0x00>", 0), ("<0xE6>", 0xE6), ("<0xe6>", 0xE6)])
def test_byte_fallback_pieces(piece: str, byte: int) -> None:
    assert fallback_byte(piece) == byte


@pytest.mark.parametrize("piece", ["<0xE>", "<0xE6>x", "<0xGG>", "0xE6", "<s>", ""])
def test_other_pieces_are_no_bytes(piece: str) -> None:
    assert fallback_byte(piece) is None


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b" the", " the"), ("日".encode(), "日"), ("日".encode()[:2], r"bytes:\xe6\x97"), (b" \xe6", r"bytes: \xe6")],
)
def test_bytes_are_spelled_as_openai_does(data: bytes, expected: str) -> None:
    assert spelled(data) == expected


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["a", "<0xE6>", "<0x97>", "<0xA5>", "b"], "a日b"),
        (["<0xE6>", "<0x97>"], "\ufffd\ufffd"),
        (["<0xE6>", "<0x97>", "<0xA5>", "<0xE6>"], "日\ufffd"),
        (["<0xE6>", None, "<0x97>", "<0xA5>"], "\ufffd\ufffd\ufffd"),
        (["<0x41>", "<0xFF>", "<0x42>"], "A\ufffdB"),
        ([], ""),
    ],
)
def test_bytes_become_characters_and_what_is_none_a_mark_for_each_byte(pieces: list[str | None], expected: str) -> None:
    assert "".join(join_bytes(pieces)) == expected
