"""Wrong usage of every command: two lines that say what is wrong and what to type, exit code 2, and nothing done."""

import shlex
from pathlib import Path

import pytest

from tests.conftest import Olc

# What is typed after `olc`, and what is to be in the two lines.
WRONG: list[tuple[str, *tuple[str, ...]]] = [
    ("compleet x", "error: No such command 'compleet'. Did you mean `olc complete`?", "fix: see `olc --help`"),
    ("'The whale is'", "error: No such command 'The whale is'. To complete a prompt: olc complete \"…\"", "see `olc --help`"),
    ("models pull", "error: Missing argument 'MODEL'", "fix: see `olc models pull --help`"),
    ("complete x --temprature 1", "error: No such option", "fix: see `olc complete --help`"),
    ("complete", "no prompt was given", "`olc complete --help`"),
    ("complete x y", "unexpected extra argument"),
    ("complete x --choices blue green", "unexpected extra argument (green)", "separate choices by commas"),
    ("batch x.jsonl --report", "requires an argument", "fix: see `olc batch --help`"),
    ("complete x -f y", "--file"),
    ("complete -f /no/such/file", "/no/such/file", "No such file"),
    ("complete 'bad \udcff byte'", "UTF-8"),
    ("complete x -p a b", "-p requires a template", "-t"),
    ("complete -t translate x -p target -m demo", "error: -p needs NAME and VALUE; VALUE was '-m'", "give both: -p NAME VALUE"),
    ("complete -t translate x -p target --model=demo", "-p needs NAME and VALUE; VALUE was '--model=demo'"),
    ("complete -t translate x -p -m demo", "-p needs NAME and VALUE; NAME was '-m'"),
    ("annotate --similar whale --json", "--similar needs A and B; B was '--json'", "give both: --similar A B"),
    ("complete x -t nonsense", "nonsense"),
    ("complete x --logprobs 2", "--json"),
    ("complete x --json --logprobs 101", "--logprobs", "100"),
    ("complete x --temperature -1", "--temperature"),
    ("complete x --temperature nan", "--temperature"),
    ("complete x --top-p 0", "--top-p"),
    ("complete x --top-k -1", "--top-k"),
    ("complete x --min-p 1.5", "--min-p"),
    ("complete x --repetition-penalty 0", "--repetition-penalty"),
    ("complete x --max-tokens -5", "--max-tokens"),
    ("complete x --stop ''", "--stop"),
    ("complete x --num-samples 0", "--num-samples"),
    ("complete x --num-samples 2 --temperature 0", "--num-samples", "--temperature"),
    ("complete x --speculate 4 --engine transformers", "--speculate", "--engine"),
    ("complete x --engine steam", "loop", "transformers"),
    ("complete x --dtype float8", "--dtype"),
    ("complete x --lang de", "--annotate"),
    ("complete x --quantize int7", "--quantize int7 is unknown"),
    ("complete x --quantize int8 --device cuda", "--quantize int8 runs only on the CPU, but --device is cuda"),
    ("complete x --quantize int4 --dtype float16", "--quantize int4 computes in bfloat16 or float32"),
    ("complete x --quantize int8 --engine transformers", "--engine transformers uses Transformers' own"),
    ("generate", "no prompt was given", "`olc generate --help`"),
    ("generate x --check --trace", "--check", "--trace"),
    ("generate x --check --svg x.svg", "--check", "--svg"),
    ("generate x --check --quantize int8", "--check uses Transformers' own model"),
    ("generate x --check -n 1000", "1000", "256"),
    (f"generate {'x' * 2000}", "context", "256"),
    ("generate x --top-p 7", "--top-p"),
    ("generate -f /no/such", "/no/such"),
    ("generate x --svg no/x.svg", "cannot write no/x.svg"),
    ("generate x --svg .", "cannot write ."),
    ("tokenize", "`olc tokenize --help`"),
    ("tokenize x -f y", "--file"),
    ("tokenize -f /no/such/file", "/no/such/file"),
    ("tokenize x --temperature 1", "--temperature"),
    ("tokenize 'caf\udce9'", "0xE9 at character 4"),
    ("annotate", "`olc annotate --help`"),
    ("annotate x -f y", "--file"),
    ("annotate -f absent", "absent"),
    ("annotate x --only pos --svg y.svg", "--svg"),
    ("annotate x --similar a b", "--similar"),
    ("annotate --similar a b --only vectors", "--only"),
    ("annotate --similar a", "--similar"),
    ("annotate 'bad \udcff byte'", "UTF-8"),
    ("bench --shape 4b", "--shape 4b is not known", "110m"),
    ("bench --shape 3b -m demo", "--model and --shape were both given"),
    ("bench --shape 110m --stored int8", "--stored int8 is not known"),
    ("bench --stored bfloat16", "--stored bfloat16 is for random weights"),
    ("bench --batch 1,x", "--batch-size 1,x is not a list of numbers"),
    ("bench --batch 0", "--batch-size 0 is not a list of numbers"),
    ("bench --against transformers --against-dtype float8", "float8"),
    ("bench --against-dtype float16", "--against-dtype float16 is for the baseline"),
    ("bench --against llama.cpp", "--against llama.cpp is for random weights", "--shape 1b"),
    ("bench --against llama.cpp --shape 110m --against-dtype float16", "--against-dtype float16 is for the baseline"),
    ("bench --prompt-tokens 64,x", "--prompt-tokens 64,x is not a list of numbers", "--prompt-tokens 64,256,512"),
    ("bench --svg .", "cannot write ."),
    ("bench --svg no/such/folder/x.svg", "cannot write no/such/folder/x.svg"),
    ("bench --runs 0", "--runs"),
    ("bench -m demo --prompt-tokens 5000", "context of"),
    ("bench -m demo --batch 16 --prompt-tokens 900", "the longest row would have"),
    ("devices --device toaster", "--device toaster is unknown"),
    ("devices --model ''", "--model is empty"),
    ("explain", "no error message"),
    ("explain x -f y", "both a text and --file"),
    ("explain -f absent", "cannot read"),
    ("explain -f .", "cannot read"),
    ("explain --list x", "--list"),
    ("explain ''", "empty"),
    ("explain ' \n'", "empty"),
    (f"explain {__file__}", "olc explain -f"),
    ("sgd --sizes 784,30,20,10", "give --sizes 64,30,20,10"),
    ("sgd --mini-batch-size 5000", "--mini-batch-size 5,000 is more than the 1,438 images"),
    ("sgd --plot no/such/folder/x.svg", "cannot write"),
    ("sgd --explain --json", "--json"),
    ("sgd --explain --check", "--check"),
    ("sgd --check --plot x.svg", "--svg"),
]


@pytest.mark.parametrize(("typed", "words"), [(typed, words) for typed, *words in WRONG], ids=lambda value: ascii(value)[:60])
def test_wrong_usage_is_two_lines_before_any_work(
    refused: Olc, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, words: list[str]
) -> None:
    for place in ("commands.complete.load_model", "commands.generate.load_model", "benchmark.runs.subprocess"):
        monkeypatch.setattr(f"openllama_cli.{place}", None)
    monkeypatch.chdir(tmp_path)
    result = refused(*shlex.split(typed), env={"OLC_MODEL": model})
    assert [word for word in words if word not in result.messages] == []
