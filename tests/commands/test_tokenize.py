"""`olc tokenize`: what it writes to a pipe, to a terminal and as JSON, and the comparison with transformers."""

import json
import re
from pathlib import Path

import pytest

from openllama_cli.commands.shared.prompt_input import read_lines
from openllama_cli.models.tokenizer.open import open_tokenizer
from tests.conftest import Olc
from tests.support.models.sentencepiece_models import trained, write
from tests.support.models.tiny_models import VOCAB, write_adapter
from tests.support.terminals import on_a_terminal, without_color


@pytest.fixture(scope="module")
def v2(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model folder whose tokenizer keeps whitespace, as OpenLLaMA v2's does. It needs no weights."""
    settings = {"tokenizer_class": "LlamaTokenizer"}
    return str(write(tmp_path_factory.mktemp("v2"), trained("bpe-openllama-v2"), tokenizer_config=settings))


def ids_of(folder: str, text: str) -> list[int]:
    return open_tokenizer(Path(folder)).encode(text)


def test_a_pipe_gets_the_ids_on_one_line(olc: Olc, v2: str) -> None:
    run = olc("tokenize", "the blue\nwhale", "-m", v2)
    assert (run.code, run.messages) == (0, "")
    assert run.text == " ".join(map(str, ids_of(v2, "the blue\nwhale"))) + "\n"


def test_json_has_model_ids_and_pieces(olc: Olc, v2: str) -> None:
    run = olc("tokenize", "the <s>\t日", "-m", v2, "--json")
    document = json.loads(run.text)
    assert list(document) == ["model", "ids", "pieces"]
    assert document["model"] == v2
    assert document["ids"] == ids_of(v2, "the <s>\t日")
    assert document["pieces"][0] == "<s>"
    assert document["pieces"].count("<s>") == 1
    assert len(document["pieces"]) == len(document["ids"])


def test_no_bos(olc: Olc, v2: str) -> None:
    assert olc("tokenize", "the", "-m", v2, "--no-bos").text == " ".join(map(str, ids_of(v2, "the")[1:])) + "\n"
    assert json.loads(olc("tokenize", "", "-m", v2, "--no-bos", "--json").text)["ids"] == []


def test_text_from_stdin_and_files_byte_for_byte(olc: Olc, v2: str, tmp_path: Path) -> None:
    text = "  the\r\n\0 whale\n"
    (tmp_path / "text").write_bytes(text.encode())
    (tmp_path / "marked").write_bytes(b"\xef\xbb\xbf" + text.encode())
    expected = " ".join(map(str, ids_of(v2, text))) + "\n"
    for given in ([], ["-"], ["-f", str(tmp_path / "text")], [text]):
        assert olc("tokenize", *given, "-m", v2, stdin=text.encode() if given in ([], ["-"]) else b"ignored").text == expected
    # A byte order mark is none of the text; a second one would be.
    assert olc("tokenize", "-f", str(tmp_path / "marked"), "-m", v2).text == expected
    assert olc("tokenize", "-m", v2, stdin=b"\xef\xbb\xbf" + text.encode()).text == expected
    assert read_lines(str(tmp_path / "marked")) == ["  the", "\0 whale"]
    (tmp_path / "marked").write_bytes(b"\xef\xbb\xbf" * 2)
    assert read_lines(str(tmp_path / "marked")) == ["\ufeff"]


def test_the_tokens_of_an_adapter_with_new_tokens(olc: Olc, tmp_model: Path, tmp_path: Path) -> None:
    adapter = str(write_adapter(tmp_path / "adapter", tmp_model, rows=VOCAB + 2))
    alone = olc("tokenize", "the <new>", "-m", adapter)
    assert alone.messages == f"olc: {adapter} is an adapter for {tmp_model}\n"
    ids = [*ids_of(str(tmp_model), "the "), VOCAB]
    assert alone.text.split() == olc("tokenize", "the <new>", "-m", str(tmp_model), "--adapter", adapter).text.split()
    assert alone.text.split() == list(map(str, ids))


# -- --check --------------------------------------------------------------------------------------------------------


def test_check_shows_where_transformers_differs(olc: Olc, v2: str) -> None:
    run = olc("tokenize", "  the whale", "-m", v2, "--check")
    assert run.code == 1
    rows = {line.split("\t")[0]: line.split("\t")[1:] for line in run.text.splitlines()}
    # SentencePiece puts a space before the two that are there; transformers leaves it out.
    assert rows["the text"] == ["differs", "token 2: olc ▁ (322), transformers ▁the (263)"]
    assert rows["BOS"] == ["differs", "token 1: olc <s> (1), transformers the end"]
    assert rows["special tokens as text"][0] == "differs"
    assert rows["words"] == ["same", ""]
    assert "transformers' AutoTokenizer gives different tokens" in run.messages


def test_check_as_json(olc: Olc, v2: str) -> None:
    run = olc("tokenize", "the whale", "-m", v2, "--check", "--json")
    document = json.loads(run.text)
    assert run.code == 1
    assert document["ids"] == ids_of(v2, "the whale")
    assert not document["check"]["same"]
    text = document["check"]["texts"][0]
    assert (text["name"], text["same"], text["first_difference"]) == ("the text", True, None)
    assert text["olc"] == text["transformers"] == document["ids"][1:]


def test_check_of_a_tokenizer_json_differs_in_special_tokens_only(olc: Olc, v2: str, tmp_path: Path) -> None:
    from transformers import LlamaTokenizer

    LlamaTokenizer.from_pretrained(v2).save_pretrained(tmp_path)
    run = olc("tokenize", "  the whale", "-m", str(tmp_path), "--check")
    differing = [line.split("\t")[0] for line in run.text.splitlines() if line.split("\t")[1] == "differs"]
    assert differing == ["special tokens as text"]
    assert run.code == 1
    assert "split_special_tokens=True" in run.messages
    assert "library" not in run.messages


def test_check_tells_what_is_left_out_and_agrees_where_no_bos_is_added(olc: Olc, tmp_path: Path) -> None:
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": False, "add_eos_token": True}
    run = olc(
        "tokenize", "whale", "-m", str(write(tmp_path, trained("bpe-openllama-v2"), tokenizer_config=settings)), "--check"
    )
    rows = {line.split("\t")[0]: line.split("\t")[1:] for line in run.text.splitlines()}
    assert rows["BOS"] == ["differs", "token 1: olc the end, transformers </s> (2)"]
    assert "set add_eos_token = False" in run.messages


# -- on a terminal --------------------------------------------------------------------------------------------------


def test_a_terminal_shows_pieces_above_their_ids(v2: str) -> None:
    written = on_a_terminal("tokenize", "the whale", "-m", v2, columns=80)
    assert "\x1b[" in written
    pieces, ids, *summary = without_color(written).splitlines()
    tokens = ids_of(v2, "the whale")
    assert pieces.split() == [open_tokenizer(Path(v2)).piece(token) for token in tokens]
    assert ids.split() == [str(token) for token in tokens]
    # Each id begins under its piece.
    assert [match.start() for match in re.finditer(r"\S+", pieces)] == [match.start() for match in re.finditer(r"\S+", ids)]
    assert " ".join(line.rstrip() for line in summary) == (
        f"{len(tokens)} tokens, 9 characters; {v2}: sentencepiece bpe, 420 pieces"
    )


@pytest.mark.parametrize("columns", [12, 40])
def test_a_narrow_terminal_gets_more_rows(v2: str, columns: int) -> None:
    written = on_a_terminal("tokenize", "the blue whale   is the largest animal 日本", "-m", v2, columns=columns)
    lines = without_color(written).splitlines()
    assert all(len(line) <= columns for line in lines[:-1] if "tokens" not in line)
    ids = [int(token) for line in lines[1::2] for token in line.split() if token.isdigit()]
    assert ids[:10] == ids_of(v2, "the blue whale   is the largest animal 日本")[:10]
