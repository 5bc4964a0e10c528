"""The page against the real thing: its modules against samplers, shells and JSON, and all of it on the server of a model."""

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from openllama_cli.api import Run
from openllama_cli.demo_model.files import WEIGHTS
from openllama_cli.generation.decode.config import SamplingConfig
from tests.serve.page.browser import continue_text, visit, window
from tests.serve.page.scripted import ScriptedServer
from tests.support.models.fakes import warp
from tests.support.serve import servers

# Texts that a shell, a terminal or JSON could take for something else.
HOSTILE = [
    "",
    "-",
    "--help",
    "it's",
    "a\nb\tc\\n",
    "$(touch x) `id` ${HOME} $HOME !! !x",
    '"quoted" \\" end\\',
    "\x1b[31mred\x07\r",
    "~ * ? [a] {a,b} # ; & | < > ( ) = %",
    "a\u202eb\u200bc\x85",
    "=ls",
    "é 日本 🐋",
    "'\x01'!\\",
    " leading and trailing ",
]

Evaluate = Callable[..., Any]


@pytest.fixture(scope="module")
def evaluate(browser: Any, running: ScriptedServer) -> Iterator[Evaluate]:
    """`evaluate("module.js", "a JavaScript expression of `m`, the module, and `x`", x)`."""
    with window(browser, running.url) as (page, _):
        page.goto(f"{running.url}icon.svg")

        def run(module: str, expression: str, x: Any = None) -> Any:
            return page.evaluate(f"async (x) => {{ const m = await import('/{module}'); return {expression}; }}", x)

        yield run


def settings(config: SamplingConfig) -> dict[str, float]:
    return {"temperature": config.temperature, "topK": config.top_k, "topP": config.top_p, "minP": config.min_p}


CONFIGS = [
    SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    for temperature in (0.3, 1.0, 1.7)
    for top_k, top_p, min_p in [
        (0, 1.0, 0.0),
        (3, 1.0, 0.0),
        (0, 0.83, 0.0),
        (0, 1.0, 0.11),
        (6, 0.9, 0.05),
        (1, 0.5, 0.5),
        (0, 0.01, 0.0),
    ]
]


def test_the_page_samples_as_the_decode_loop_does(evaluate: Evaluate) -> None:
    logits = torch.randn(10, generator=torch.Generator().manual_seed(5)) * 2
    logprobs = logits.double().log_softmax(-1)
    top = [{"id": token, "text": str(token), "logprob": float(logprob)} for token, logprob in enumerate(logprobs)]
    for config in CONFIGS:
        groups = evaluate(
            "distribution.js", "m.sampled(m.groupsOf(x.top, null), x.settings)", {"top": top, "settings": settings(config)}
        )
        found = {group["token"]["id"]: group["q"] * group["kept"] for group in groups}
        wanted = warp(logits, config)
        assert [found[token] for token in range(10)] == pytest.approx(wanted.tolist(), abs=1e-5), config
        assert all((group["cut"] is None) == (group["q"] > 0) for group in groups)


def test_what_is_not_reported_stands_as_one_group(evaluate: Evaluate) -> None:
    """Exact where neither temperature nor top-p asks what it is like inside; near the truth elsewhere."""
    logits = -1.1 * torch.arange(1, 2001).float().log()
    logprobs = logits.double().log_softmax(-1)
    entropy = float(-(logprobs.exp() * logprobs).sum() / torch.tensor(2.0).log())
    tokens = [{"id": token, "text": str(token), "logprob": float(logprobs[token])} for token in range(100)]
    expression = """(() => {
        const all = m.sampled(m.groupsOf(x.top, x.entropy, x.more), x.settings);
        return [all, m.collected(all), m.summary(all)];
    })()"""
    for config in CONFIGS:
        x = {"top": tokens[:10], "more": tokens[10:], "entropy": entropy, "settings": settings(config)}
        groups, shown, summary = evaluate("distribution.js", expression, x)
        assert sum(group["p"] * group["count"] for group in groups) == pytest.approx(1)
        assert sum(group["q"] * group["kept"] for group in groups) == pytest.approx(1)
        assert [row["token"] and row["token"]["id"] for row in shown] == [*range(10), None]
        assert sum(row["q"] for row in shown) == pytest.approx(1)
        wanted = warp(logits, config)
        exact = config.temperature == 1 and config.top_p == 1
        for row in shown[:10]:
            assert row["q"] == pytest.approx(float(wanted[row["token"]["id"]]), abs=1e-6 if exact else 0.02), config
        if config == SamplingConfig(temperature=1.0):
            assert summary["entropy"] == pytest.approx(entropy)


def test_percentages(evaluate: Evaluate) -> None:
    values = [0, 1e-6, 0.0004, 0.0123, 0.0996, 0.5, 0.9949, 0.9999, 1]
    shown = evaluate("distribution.js", "x.map(m.percent)", values)
    assert shown == ["0 %", "<0.01 %", "0.04 %", "1.2 %", "10 %", "50 %", "99.5 %", ">99.9 %", "100 %"]


def test_a_quoted_text_is_the_argument_again(evaluate: Evaluate) -> None:
    quoted = evaluate("commands.js", "x.map(m.quote)", HOSTILE)
    script = f"set -H\nprintf '%s\\0' {' '.join(quoted)}\n"
    run = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, check=True)
    assert run.stdout.decode().split("\0")[:-1] == HOSTILE
    assert all(character.isprintable() or character in "\n\t" for text in quoted for character in text)
    assert evaluate("commands.js", "m.quote(x)", "a\0b") is None


@pytest.mark.parametrize("text", HOSTILE)
def test_the_shell_command_has_the_prompt_and_the_options(evaluate: Evaluate, text: str) -> None:
    x = {
        "temperature": 0.7,
        "topP": 0.9,
        "topK": 0,
        "minP": 0.05,
        "maxTokens": 8,
        "seed": 3,
        "branches": 2,
        "stop": [text or "x"],
    }
    command = evaluate("commands.js", "m.shellCommand('my model', x.text, x.settings)", {"text": text, "settings": x})
    script = f'olc() {{ printf "%s\\0" "$@"; [ -t 0 ] || cat; }}\n{command}'
    run = subprocess.run(["bash", "--norc", "-c", script], stdin=subprocess.DEVNULL, capture_output=True, check=True)
    *arguments, rest = run.stdout.decode().split("\0")
    options = ["-m", "my model", "-n", "8", "--temperature", "0.7", "--top-p", "0.9", "--min-p", "0.05"]
    options += ["--seed", "3", "--num-samples", "2", "--stop", text or "x"]
    if text == "-":  # As an argument it would mean stdin, so it comes from there.
        assert (arguments, rest) == (["complete", *options], "-")
    else:
        assert (arguments, rest) == (["complete", *options, "--", text], "")


def test_json_is_the_request_again(evaluate: Evaluate) -> None:
    for text in HOSTILE:
        request = {"model": "m", "prompt": text, "stop": [text], "seed": 1}
        shown = evaluate("commands.js", "m.json(x)", request)
        assert json.loads(shown) == request
        assert all(character.isprintable() or character == "\n" for character in shown)


def test_hidden_characters_are_shown(evaluate: Evaluate) -> None:
    texts = [" a b ", "x\ny", "\x1b[2J", "a\u202eb", "\t", "\u200b", "🐋", "\x85"]
    shown = ["·a b·", "x⏎y", "␛[2J", "aU+202Eb", "⇥", "U+200B", "🐋", "U+0085"]
    assert evaluate("visible.js", "x.map(m.oneLine)", texts) == shown


def test_events_are_found_however_the_bytes_are_cut(evaluate: Evaluate) -> None:
    stream = ': alive\n\ndata: {"text": "🐋"}\n\nevent: x\r\ndata: 1\r\ndata: 2\r\n\r\ndata: [DONE]\n\n'
    expression = """await (async () => {
        const bytes = new TextEncoder().encode(x.stream), found = [];
        const source = new ReadableStream({ start(to) {
            for (let at = 0; at < bytes.length; at += x.size) to.enqueue(bytes.slice(at, at + x.size));
            to.close();
        } });
        for await (const data of m.events(source)) found.push(data);
        return found;
    })()"""
    for size in (1, 3, 7, 1000):
        assert evaluate("api.js", expression, {"stream": stream, "size": size}) == ['{"text": "🐋"}', "1\n2", "[DONE]"]


def test_an_answers_tokens_have_the_text_between_offsets(evaluate: Evaluate) -> None:
    """Offsets count characters, not UTF-16 units; a token's text may come with a later chunk."""
    entry = {"logprob": -1.0, "entropy": 1.0, "top": [[7, "a", -1.0]]}
    chunks = [
        {"text": "🐋", "olc": {"tokens": [{"id": 7, "text": "🐋", "offset": 0, **entry}]}},
        {
            "text": "é",
            "olc": {
                "tokens": [
                    {"id": 8, "text": "bytes:\\xc3", "offset": 1, **entry},
                    {"id": 9, "text": "bytes:\\xa9", "offset": 1, **entry},
                ]
            },
        },
        {"text": "!", "olc": {"tokens": [{"id": 5, "text": "!", "offset": 2, **entry}], "finish_reason": "length"}},
    ]
    expression = """(() => {
        const answer = new m.Answer(), texts = [];
        for (const chunk of x) {
            const { first, tokens } = answer.push(chunk);
            tokens.forEach((token, place) => (texts[first + place] = token.text));
        }
        return [texts, answer.finish];
    })()"""
    assert evaluate("answer.js", expression, chunks) == [["🐋", "", "é", "!"], "length"]


def test_a_tree_survives_storage(evaluate: Evaluate) -> None:
    expression = """(() => {
        const tree = new m.Tree();
        const a = tree.add(0, { id: 1, text: "a", piece: "a", by: "you" });
        const top = [{ id: 2, text: "b", logprob: -0.5 }];
        const b = tree.add(a.key, { id: 2, text: "b", piece: "b", by: "model", logprob: -0.5, top });
        tree.add(a.key, { id: 3, text: "c", piece: "c", by: "model" });
        tree.add(a.key, { id: 2, text: "b" });
        tree.visit(b.key);
        tree.mark();
        const again = m.Tree.parse(JSON.stringify(tree));
        return [again.text(), again.nodes.size, JSON.stringify(again) === JSON.stringify(tree), m.Tree.parse("{").nodes.size];
    })()"""
    assert evaluate("tree.js", expression) == ["ab", 3, True, 0]


def test_the_page_on_the_demo_model(browser: Any) -> None:
    """Tokens, probabilities and branches are the model's own, in every byte and script."""
    with servers.running(WEIGHTS) as server, window(browser, server.url) as (page, watch):
        visit(page, watch, f"{server.url}/")
        page.fill("#set-temperature", "0")
        text = "Q: 日本の首都は?\nA:"
        continue_text(page, text)
        ids = server.model.tokenizer.encode(text)
        scored = server.model.complete(text, echo=True, temperature=0, max_tokens=64, logprobs=10)
        shown = page.locator("#text .token").evaluate_all("all => all.map((one) => one.getAttribute('aria-label'))")
        assert len(shown) == len(scored.tokens) + 1  # The end of the text is a token too.
        page.click("#edit")
        assert page.input_value("#draft") == text + server.model.complete(text, temperature=0, max_tokens=64).text
        page.click("#edit")
        page.locator("#text .token.model").first.click()
        page.locator("#alternatives button.row:not(.here)").first.click()
        page.wait_for_selector("#branches li li")
        page.wait_for_selector("#status:has-text('token')")
        assert page.locator("#text .token").count() > len(ids)
        # Several branches at once.
        for name, value in {"temperature-number": "1.5", "branches": "3", "seed": "5", "maxTokens": "8"}.items():
            page.fill(f"#set-{name}", value)
        page.click("#fresh")
        text = "Name the capital of"
        continue_text(page, text)
        page.wait_for_selector("#branches li:has(> .stretch.here) > ul > li:nth-child(3)")
        # What the processors made of each candidate is what the decode loop says.
        config = SamplingConfig(max_tokens=8, temperature=1.5, top_p=0.95, seed=5)
        run = Run(server.model, [server.model.tokenizer.encode(text)], config, trace=10)
        first = next(step.trace for step in run.steps() if step.trace is not None)
        page.locator("#text .token.model").first.click()
        percent = "async (all) => { const { percent } = await import('./distribution.js'); return all.map(percent); }"
        shares = page.evaluate(percent, [share for one in first.candidates for share in (one.model, one.tempered, one.drawn)])
        wanted = [
            f"cut: {one.cut}" if one.cut and at == 2 else shares[3 * place + at]
            for place, one in enumerate(first.candidates)
            for at in range(3)
        ]
        cells = page.locator("#distribution button.row :is(.value, .sampled)")
        assert cells.all_text_contents()[: len(wanted)] == wanted
        watch.check()
