"""The Python face: `load`, and what a model's `complete`, `stream` and `score` return. A random model: no text is judged."""

import math
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest import TestCase

import pytest

import openllama_cli as olc
from openllama_cli.api.model import TqdmProgress
from openllama_cli.api.results import Sampling
from openllama_cli.generation.decode.config import SamplingConfig
from tests.conftest import Olc
from tests.support.models.sentencepiece_models import train
from tests.support.models.tiny_models import greedy, load_llama
from tests.support.progress import Recorder

PROMPT = "Q: What is the largest animal?"


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> olc.Model:
    return olc.load(str(tiny_model), dtype="float32", progress=False)


@pytest.fixture(scope="module")
def reference(tiny_model: Path) -> Any:
    return load_llama(tiny_model)


def test_importing_it_costs_no_heavy_import() -> None:
    code = (
        "import sys, openllama_cli as olc\n"
        "assert 'openllama_cli.api' not in sys.modules\n"
        "olc.load, olc.Model, olc.OlcError, dir(olc)\n"
        "heavy = {'torch', 'transformers', 'numpy', 'click', 'rich', 'tqdm', 'jinja2', 'huggingface_hub', 'sentencepiece'}\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & heavy))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_unknown_names_are_attribute_errors_and_known_ones_are_listed_and_typed() -> None:
    with pytest.raises(AttributeError, match="lod"):
        _ = olc.lod  # type: ignore[attr-defined]
    assert set(olc.__all__) <= set(dir(olc))
    assert (Path(olc.__file__).parent / "py.typed").exists()


def test_sampling_options_are_those_of_the_config() -> None:
    assert Sampling.__annotations__.keys() == {field.name for field in fields(SamplingConfig)}


def test_a_greedy_completion_is_what_model_generate_makes(model: olc.Model, reference: Any) -> None:
    ids = model.tokenizer.encode(PROMPT)
    completion = model.complete(PROMPT, max_tokens=20)
    assert completion.tokens == greedy(reference, ids)
    whole = model.tokenizer.decode([*ids, *completion.tokens])
    assert str(completion) == completion.text == whole.removeprefix(model.tokenizer.decode(ids))
    assert (completion.prompt, completion.finish_reason, completion.seed) == (PROMPT, "length", None)
    assert completion.logprobs is completion.top_logprobs is None


def test_a_list_of_prompts_gives_what_each_gives_alone(model: olc.Model) -> None:
    prompts = [PROMPT, "The quick", ""]
    assert model.complete(prompts, max_tokens=9) == [model.complete(prompt, max_tokens=9) for prompt in prompts]
    assert model.complete([], max_tokens=9) == []
    assert model.complete([PROMPT], max_tokens=9, n=1, temperature=1, seed=1) == [
        [model.complete(PROMPT, max_tokens=9, temperature=1, seed=1)]
    ]


def test_samples_are_those_of_the_command(model: olc.Model, request: pytest.FixtureRequest) -> None:
    command: Olc = request.getfixturevalue("olc")  # The module has taken its name.
    samples = model.complete(PROMPT, n=3, seed=4, max_tokens=9)
    arguments = ("--num-samples", "3", "--seed", "4", "-n", "9", "-m", model.name, "--dtype", "float32")
    assert command("complete", PROMPT, *arguments).text == "".join(f"{sample}\n" for sample in samples)
    assert model.complete([PROMPT, "x"], n=3, seed=4, max_tokens=9)[0] == samples


def test_a_seed_is_chosen_and_repeats_the_text(model: olc.Model) -> None:
    first = model.complete(PROMPT, temperature=1.0, max_tokens=9)
    assert first == model.complete(PROMPT, temperature=1.0, max_tokens=9, seed=first.seed)


def test_echo_and_logprobs_line_up_with_the_tokens(model: olc.Model) -> None:
    plain = model.complete(PROMPT, max_tokens=4)
    echoed = model.complete(PROMPT, max_tokens=4, echo=True, logprobs=2)
    assert echoed.text == PROMPT + plain.text
    assert echoed.tokens == [*model.tokenizer.encode(PROMPT), *plain.tokens]
    assert echoed.logprobs is not None
    assert echoed.top_logprobs is not None
    assert len(echoed.tokens) == len(echoed.logprobs) == len(echoed.top_logprobs)
    assert (echoed.logprobs[0], echoed.top_logprobs[0]) == (None, {})
    for token, logprob, top in list(zip(echoed.tokens, echoed.logprobs, echoed.top_logprobs, strict=True))[-4:]:
        assert max(top, key=lambda piece: top[piece]) == model.tokenizer.text(token), "greedy"
        assert logprob == max(top.values())
        assert len(top) == 2


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 1.0, "seed": 2}, {"logprobs": 1}, {"stop": ["e", "zzz"]}, {"max_tokens": 0}]
)
def test_streamed_pieces_join_to_the_completion(model: olc.Model, options: Any) -> None:
    whole = model.complete(PROMPT, **options)
    pieces = list(model.stream(PROMPT, **options))
    assert "".join(piece.text for piece in pieces) == whole.text
    assert [piece.token for piece in pieces if piece.token is not None] == whole.tokens
    assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + [whole.finish_reason]
    if whole.logprobs is not None:
        assert [(piece.logprob, piece.top_logprobs) for piece in pieces] == list(
            zip(whole.logprobs, whole.top_logprobs or [], strict=True)
        )


def test_the_eos_that_ends_a_stream_is_not_one_of_its_tokens() -> None:
    demo = olc.load("demo", progress=False)
    whole = demo.complete("Q: What is the largest animal?\nA:")
    pieces = list(demo.stream("Q: What is the largest animal?\nA:"))
    assert whole.finish_reason == pieces[-1].finish_reason == "eos"
    assert [piece.token for piece in pieces] == [*whole.tokens, None]


def test_a_stream_can_be_left(model: olc.Model) -> None:
    stream = model.stream(PROMPT, max_tokens=100)
    next(stream)
    stream.close()
    assert next(model.stream(PROMPT)).token == model.complete(PROMPT).tokens[0]


@pytest.mark.parametrize("context", [None, "", "Q: What", "Q: What is the "])
def test_a_score_is_that_of_a_full_forward_pass(model: olc.Model, reference: Any, context: str | None) -> None:
    import torch

    text = PROMPT.removeprefix(context or "")
    score = model.score(text, context=context)
    ids = model.tokenizer.encode(PROMPT)
    with torch.inference_mode():
        logprobs = reference(torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = [float(logprobs[place, token]) for place, token in enumerate(ids[1:])][-len(score.tokens) :]
    assert score.tokens == ids[-len(score.tokens) :]
    assert score.logprobs == pytest.approx(expected, abs=1e-4)
    assert score.total == pytest.approx(sum(expected), abs=1e-3)
    assert score.perplexity == pytest.approx(math.exp(-sum(expected) / len(expected)), rel=1e-4)
    # A token that begins in the context counts to the text.
    assert len(model.tokenizer.decode(score.tokens).strip()) >= len(text.strip())


def test_without_bos_nothing_predicts_the_first_token(tmp_model: Path) -> None:
    (tmp_model / "tokenizer.model").write_bytes(train(bos_id=-1, vocab_size=380))
    model = olc.load(str(tmp_model), progress=False)
    score = model.score("the quick")
    assert score.logprobs[0] is None
    assert score.total == sum(value for value in score.logprobs if value is not None)
    assert math.isnan(olc.Score([1], [None], "the", [0], [None], [None]).perplexity)


def test_errors_have_a_code_and_a_remedy(model: olc.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {
        "context_length_exceeded": lambda: model.complete(PROMPT, max_tokens=300),
        "empty_prompt": lambda: model.score(""),
        "stride_out_of_range": lambda: model.score(PROMPT, stride=10_000),
        "usage": lambda: model.complete(PROMPT, top_p=2.0),
        "model": lambda: olc.load(str(tmp_path)),
    }
    for code, call in calls.items():
        with pytest.raises(olc.OlcError) as caught:
            call()
        assert caught.value.code == code
        assert caught.value.remedy
    for wrong in ({"n": 0}, {"n": 2, "temperature": 0}, {"temprature": 1}, {"stop": 3}):
        with pytest.raises(olc.OlcError) as caught:
            model.complete(PROMPT, **wrong)  # type: ignore[call-overload]
        assert caught.value.code == "usage"
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(olc.OlcError, match="single process"):
        olc.load("demo")


@pytest.mark.parametrize(("dtype", "said"), [("float32", "weights are damaged"), ("bfloat16", "try --dtype float32")])
def test_logits_that_are_no_numbers_are_the_fault_of_the_weights_in_float32(tmp_model: Path, dtype: str, said: str) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(tmp_model / "model.safetensors")
    state["lm_head.weight"][3] = math.nan
    save_file(state, tmp_model / "model.safetensors", {"format": "pt"})
    with pytest.raises(olc.OlcError) as caught:
        olc.load(str(tmp_model), dtype=dtype, device="cpu", progress=False).complete(PROMPT)
    assert caught.value.code == "non_finite_logits"
    assert said in caught.value.remedy


def test_the_demo_model_says_that_nothing_was_chosen() -> None:
    with TestCase().assertLogs("openllama_cli") as logs:
        assert repr(olc.load(progress=False)).startswith("<olc model demo: ")
    assert "no model chosen" in logs.output[0]


def test_loading_reports_its_progress(tiny_model: Path) -> None:
    progress = Recorder()
    olc.load(str(tiny_model), progress=progress)
    assert {label: sum(counts) for label, counts in progress.counts.items()} == progress.totals
    assert progress.totals
    assert progress.finished


def test_bars_are_drawn_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        bar = TqdmProgress()
        bar.advance(1)
        bar.start("loading x", 2_000_000)
        bar.advance(1_000_000)
        bar.start("next", None)
        bar.finish()
        assert ("loading x" in capsys.readouterr().err) == terminal
