"""`olc annotate`, and annotations of completions: output, streams, exit codes. What is found is tested elsewhere."""

import json
import signal
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from openllama_cli.annotation.pipeline import Pipeline, open_pipeline
from tests.conftest import Olc
from tests.support.batches import finished, read, wait_for
from tests.support.forked import Forked
from tests.support.pipelines import pipeline, trained
from tests.support.terminals import on_a_terminal, remaining

__all__ = ["pipeline", "trained"]
TEXT = "Anna sees the big whales in Berlin. Hiro likes the big dog in Tokyo."


@pytest.fixture(autouse=True)
def _trained_is_opened_once(trained: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "openllama_cli.annotation.pipeline.open_pipeline",
        lambda choice: pipeline if choice.source == trained else open_pipeline(choice),
    )


def table(text: str) -> list[dict[str, str]]:
    header, *rows = (line.split("\t") for line in text.splitlines())
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_a_pipe_gets_a_line_per_token(olc: Olc, trained: Path) -> None:
    run = olc("annotate", TEXT, "--pipeline", str(trained))
    assert (run.code, run.messages) == (0, "")
    rows = table(run.text)
    assert [row["token"] for row in rows[:4]] == ["Anna", "sees", "the", "big"]
    header, *lines = run.text.splitlines()
    assert header.replace("\t", " ") == "id sentence start end token pos tag morph lemma dep head entity"
    assert lines[4] == "4\t1\t18\t24\twhales\tNOUN\tNOUN\t\twhale\tdobj\t1\t"
    entities = [f"{row['sentence']} {row['token']} {row['entity']}" for row in rows if row["entity"]]
    assert entities == ["1 Anna B-PERSON", "1 Berlin B-GPE", "2 Hiro B-PERSON", "2 Tokyo B-GPE"]


def test_entities_alone_are_a_line_each(olc: Olc, trained: Path) -> None:
    run = olc("annotate", f"🐋\t{TEXT}", "--only", "entities", "--pipeline", str(trained))
    assert [row["text"] for row in table(run.text)][-3:] == ["Berlin", "Hiro", "Tokyo"]
    assert {"start": "30", "end": "36", "label": "GPE", "text": "Berlin"} in table(run.text)


def test_columns_are_what_was_asked_for_and_is_there(olc: Olc, trained: Path) -> None:
    common = ["id", "sentence", "start", "end", "token"]
    run = olc("annotate", TEXT, "--only", "lemma,vectors", "--pipeline", str(trained))
    assert run.text.splitlines()[0].split("\t") == [*common, "lemma", "vector"]
    assert table(run.text)[3]["vector"] == "0.0 0.0 0.0 0.0 1.0 0.0 0.0 0.0"
    assert table(run.text)[1]["vector"] == ""
    blank = olc("annotate", TEXT, "--lang", "xx")
    assert blank.code == 0
    assert blank.text.splitlines()[0].split("\t") == common
    assert "python -m spacy download xx_ent_wiki_sm" in blank.messages


@pytest.mark.parametrize("piece", [200, 100_000])
def test_json_is_doc_to_json_in_whatever_pieces_and_says_what_made_it(
    olc: Olc, trained: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    import spacy

    monkeypatch.setattr("openllama_cli.annotation.annotate.PIECE", piece)
    text = " ".join([f"{TEXT} 🐋\n"] * 30)
    run = olc("annotate", text, "--json", "--pipeline", str(trained))
    document = json.loads(run.text)
    about = document.pop("olc")
    assert about == {"pipeline": "en_tiny_test", "version": "1.2.3", "spacy": spacy.__version__, "lacks": []}
    assert document == pipeline.nlp(text).to_json()


def test_what_is_lacking_is_reported_and_nothing_at_all_is_an_error(olc: Olc) -> None:
    run = olc("annotate", "dogs", "--lang", "xx", "--only", "tokens,pos,vectors")
    assert run.code == 0
    assert "the blank pipeline for xx gives no parts of speech or word vectors" in run.messages
    run = olc("annotate", "dogs", "--lang", "xx", "--only", "pos,entities", "--json")
    assert run.code == 1
    assert run.out == b""
    assert "gives no parts of speech or named entities" in run.messages
    assert "python -m spacy download" in run.messages.splitlines()[-1]
    document = json.loads(olc("annotate", "dogs", "--lang", "xx", "--json").text)
    assert document["olc"]["lacks"] == ["pos", "lemma", "entities", "dependencies"]


def test_similar_compares_two_texts(olc: Olc, trained: Path) -> None:
    run = olc("annotate", "--similar", "whale", "big dog", "--pipeline", str(trained))
    assert (run.code, run.messages) == (0, "")
    assert 0.6 < float(run.text) < 0.8
    run = olc("annotate", "--similar", "whale", "the dog", "--pipeline", str(trained), "--json")
    assert json.loads(run.text)["similarity"]["unknown"] == ["the"]
    assert "no vector for the" in run.messages
    assert olc("annotate", "--similar", "whale", "dog", "--lang", "en").code == 1


# -- pictures -------------------------------------------------------------------------------------------------------


def test_pictures_of_dependencies_and_of_entities(olc: Olc, trained: Path, tmp_path: Path) -> None:
    for only, inside in ((None, "displacy-arrow"), ("dependencies", "displacy-arrow"), ("entities", 'rx="5"')):
        file = tmp_path / f"{only}.svg"
        arguments = ["--only", only] if only else []
        run = olc("annotate", TEXT, "--svg", str(file), "--pipeline", str(trained), *arguments)
        assert run.code == 0
        assert str(file) in run.messages
        assert run.out
        assert inside in file.read_text()
        ElementTree.parse(file)


def test_a_picture_of_what_is_not_there_is_an_error(olc: Olc, trained: Path, tmp_path: Path) -> None:
    run = olc("annotate", TEXT, "--lang", "xx", "--svg", str(tmp_path / "x.svg"))
    assert run.code == 1
    assert "nothing to draw" in run.messages
    assert list(tmp_path.iterdir()) == []
    run = olc("annotate", TEXT, "--pipeline", str(trained), "--svg", str(tmp_path / "absent" / "x.svg"))
    assert run.code == 2
    assert "cannot write" in run.messages


# -- on a terminal --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [60, 100])
def test_a_terminal_gets_colored_entities_a_table_and_trees(trained: Path, columns: int) -> None:
    written = on_a_terminal("annotate", f"{TEXT} [b]\x1b[31m", "--pipeline", str(trained), columns=columns)
    assert "\x1b[31m" not in written
    assert "48;2;254;202;116mBerlin" in written or "48;5;" in written
    lines = remaining(written).split("\n")
    assert max(map(len, lines)) <= columns
    shown = "\n".join(lines)
    assert "Anna PERSON sees the big whales in Berlin GPE." in shown
    assert "\\x1b" in shown
    tree = lines[lines.index("sees  ROOT VERB") :]
    assert tree[1:5] == ["├─ Anna  nsubj PROPN", "├─ whales  dobj NOUN", "│  ├─ the  det DET", "│  └─ big  amod ADJ"]


def test_a_sentence_may_be_deeper_than_python_calls() -> None:
    from openllama_cli.terminal.views.annotations import tree

    deep = sys.getrecursionlimit() + 100
    lines = [line.plain for line in tree([(f"w{place}", "dep", "", max(place - 1, 0)) for place in range(deep)])]
    assert (len(lines), lines[0]) == (deep, "w0  dep")


# -- completions ----------------------------------------------------------------------------------------------------


def test_complete_puts_annotations_into_its_json(olc: Olc, model: str, trained: Path, pipeline: Pipeline) -> None:
    options = "--max-tokens 8 --dtype float32 --seed 3 --json --num-samples 2"
    arguments = ("complete", "the quick", "-m", model, *options.split())
    plain = json.loads(olc(*arguments).text)
    run = olc(*arguments, "--annotate", "--pipeline", str(trained), "--echo")
    document = json.loads(run.text)
    texts = [choice["text"] for choice in plain["choices"]]
    assert document["olc"]["annotations"] == [pipeline.nlp(text).to_json() for text in texts]
    assert document["olc"]["annotated_with"]["pipeline"] == "en_tiny_test"
    assert "annotations" not in plain["olc"]


def test_complete_puts_annotations_on_stderr_and_the_text_on_stdout(olc: Olc, model: str, trained: Path) -> None:
    arguments = ("complete", "the quick", "-n", "8", "-m", model, "--dtype", "float32")
    plain = olc(*arguments)
    run = olc(*arguments, "--annotate", "--pipeline", str(trained))
    assert run.code == 0
    assert run.out == plain.out
    rows = table(run.messages.strip("\n"))
    text = plain.text.removesuffix("\n")
    assert rows
    for row in rows:
        piece = text[int(row["start"]) : int(row["end"])]
        assert row["token"] == piece.replace("\n", "\\n").replace("\t", "\\t") or not piece.isprintable()


def test_options_of_annotations_without_them_are_wrong_usage_of_batch(refused: Olc, model: str, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("one\n")
    assert "--annotate" in refused("batch", str(tmp_path / "in.txt"), "--pipeline", "x", "-m", model).messages
    refused("batch", str(tmp_path / "in.txt"), "--annotate", "nonsense", "-m", model)


# -- batches --------------------------------------------------------------------------------------------------------


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    rows = [json.dumps({"prompt": "the quick brown " * (index % 4), "max_tokens": 2 + index % 5}) for index in range(50)]
    rows[13] = "{not json"
    request = {"custom_id": "o", "method": "POST", "url": "/v1/completions", "body": {"prompt": "the", "echo": True}}
    rows[20] = json.dumps(request)
    file.write_text("\n".join(rows))
    return file


def command(source: Path, output: Path, model: str, pipeline: Path, *more: str) -> tuple[str, ...]:
    options = ("-m", model, "--dtype", "float32", "--annotate", "entities,pos", "--pipeline", str(pipeline))
    return ("batch", str(source), "-o", str(output), *options, *more)


def test_a_batch_adds_annotations_to_every_row_and_changes_nothing_else(
    olc: Olc, model: str, trained: Path, pipeline: Pipeline, rows_file: Path, tmp_path: Path
) -> None:
    plain, annotated = tmp_path / "plain.jsonl", tmp_path / "annotated.jsonl"
    assert olc("batch", str(rows_file), "-o", str(plain), "-m", model, "--dtype", "float32").code == 3
    assert olc(*command(rows_file, annotated, model, trained, "--batch-size", "16")).code == 3
    for before, row in zip(read(plain), read(annotated), strict=True):
        annotations = row.pop("annotations")
        assert row == before
        if before["error"] is not None:
            assert annotations is None
            continue
        text = before["response"]["body"]["choices"][0]["text"] if "response" in before else before["text"]
        expected = pipeline.nlp(text).to_json()
        assert annotations["ents"] == expected["ents"]
        assert [token["pos"] for token in annotations["tokens"]] == [token["pos"] for token in expected["tokens"]]
        assert "text" not in annotations
        assert all("lemma" not in token for token in annotations["tokens"])


def test_a_journal_with_other_annotations_is_refused_by_name(
    olc: Olc, model: str, trained: Path, rows_file: Path, tmp_path: Path
) -> None:
    import shutil

    output = tmp_path / "out.jsonl"
    assert olc(*command(rows_file, output, model, trained)).code == 3
    run = olc("batch", str(rows_file), "-o", str(output), "-m", model, "--dtype", "float32")
    assert run.code == 2
    assert "--annotate was" in run.messages
    moved = tmp_path / "moved"
    shutil.copytree(trained, moved)
    assert "49 of 50 rows are done" in olc(*command(rows_file, output, model, moved, "--retry-errors")).messages
    (moved / "ner" / "model").write_bytes((moved / "ner" / "model").read_bytes() + b"\0")
    run = olc(*command(rows_file, output, model, moved))
    assert run.code in (1, 2)
    assert "pipeline" in run.messages


def test_a_batch_whose_pipeline_gives_nothing_of_what_is_asked_for_does_not_begin(
    olc: Olc, model: str, rows_file: Path, tmp_path: Path
) -> None:
    options = ("-m", model, "--annotate", "entities", "--lang", "xx")
    run = olc("batch", str(rows_file), "-o", str(tmp_path / "out.jsonl"), *options)
    assert run.code == 1
    assert "gives no named entities" in run.messages
    assert [path.name for path in tmp_path.iterdir()] == [rows_file.name]


@pytest.mark.slow
def test_an_interrupted_batch_resumes_with_every_row_annotated_once(
    olc: Olc, model: str, trained: Path, rows_file: Path, tmp_path: Path
) -> None:
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert olc(*command(rows_file, whole, model, trained)).code == 3
    arguments = command(rows_file, output, model, trained, "--batch-size", "2")
    # Once while rows wait for their annotations and none is reported; once when some are kept.
    for number, lines in ((signal.SIGKILL, 2), (signal.SIGTERM, 10)):
        with Forked(*arguments) as run:
            wait_for(lambda lines=lines: finished(output) >= lines, run)  # type: ignore[misc]
            run.send_signal(number)
        assert not output.exists()
    assert olc(*arguments).code == 3
    assert output.read_bytes() == whole.read_bytes()
