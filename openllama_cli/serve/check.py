"""What a server answers over HTTP, compared with a full forward pass and `model.generate` of transformers."""

import http.client
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openllama_cli.serve import listen
from openllama_cli.serve.app import Server, make_app
from openllama_cli.serve.engine import Engine

if TYPE_CHECKING:
    from openllama_cli.api import Model
    from openllama_cli.generation.decode.reference import Check

TEXTS = (
    "Q: What is the largest animal?\nA:",
    "The capital of France is",
    "def main():\n    for i in range(10):\n",
    "Once upon a time there was a miller who had three sons. When he died",
    "1, 2, 3, 4, 5,",
    "Die größte Stadt des Landes",
)
_TOKENS = 24


@dataclass(frozen=True)
class Compared:
    """One prompt. check: its completion. prompt_difference: the largest of the log-probabilities of its own tokens.

    dtype: what the model computes in.
    """

    text: str
    streamed: bool
    dtype: str
    check: "Check"
    prompt_difference: float

    @property
    def same(self) -> bool:
        """Whether tokens are equal and log-probabilities within the tolerance."""
        from openllama_cli.generation.decode.reference import LOGPROB_TOLERANCE

        return self.check.same and self.prompt_difference <= LOGPROB_TOLERANCE


@contextmanager
def in_background(load: "Callable[[], Model]", log: Callable[[str], None]) -> "Iterator[tuple[str, int, Model]]":
    """A server on loopback in other threads: host, port and model once it is ready. Raises what loading raised."""
    ready = threading.Event()
    engine = Engine(load, log=log, ended=lambda error: ready.set())
    listener = listen.bind("127.0.0.1", 0)
    http_ = listen.make_server(make_app(Server(engine)), drain=5, log=log)
    thread = threading.Thread(target=http_.run, args=([listener],), daemon=True, name="olc-http")
    engine.start()
    thread.start()
    try:
        ready.wait()
        if engine.error is not None:
            raise engine.error
        yield "127.0.0.1", listener.getsockname()[1], engine.ready()[0]
    finally:
        http_.should_exit = True
        thread.join(30)
        engine.close()


def check(load: "Callable[[], Model]", log: Callable[[str], None]) -> list[Compared]:
    """Serve a model, complete some prompts at once over HTTP, every other one streamed, and compare. Raises OlcError."""
    with in_background(load, log) as (host, port, model):
        context, dtype = model.context, str(model.loaded.dtype).removeprefix("torch.")
        prompts = [model.tokenizer.encode(text)[: max(1, context - _TOKENS)] for text in TEXTS]
        most = min(_TOKENS, context - max(map(len, prompts)))
        bodies = [_body(prompt, most, stream=place % 2 == 1) for place, prompt in enumerate(prompts)]
        with ThreadPoolExecutor(len(bodies)) as pool:
            choices = list(pool.map(lambda body: _ask(host, port, body), bodies))
        return [
            Compared(TEXTS[place], body["stream"], dtype, *_compare(model, place, prompts[place], most, choice))
            for place, (body, choice) in enumerate(zip(bodies, choices, strict=True))
        ]


def _body(prompt: Sequence[int], most: int, *, stream: bool) -> dict[str, Any]:
    own = {"tokens": True}
    body = {"prompt": list(prompt), "max_tokens": most, "temperature": 0, "logprobs": 0, "echo": True, "olc": own}
    return {**body, "stream": stream}


def _ask(host: str, port: int, body: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The tokens of the prompt and of the completion."""
    connection = http.client.HTTPConnection(host, port)
    try:
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: {")] if body["stream"] else [text]
    choices = [choice for line in lines for choice in json.loads(line)["choices"]]
    return {name: [entry for choice in choices for entry in choice["olc"].get(name, ())] for name in ("prompt", "tokens")}


def _compare(
    model: "Model", row: int, prompt: Sequence[int], most: int, answer: dict[str, list[dict[str, Any]]]
) -> "tuple[Check, float]":
    import torch

    from openllama_cli.generation.decode.config import SamplingConfig
    from openllama_cli.generation.decode.reference import compare
    from openllama_cli.generation.decode.request import Request, Scored
    from openllama_cli.generation.decode.sampling import log_probabilities

    loaded, tokenizer = model.loaded, model.tokenizer
    assert loaded.model is not None, "--check refuses --quantize"
    request = Request(row, prompt, SamplingConfig(most, logprobs=0), eos=tokenizer.eos_ids, pieceless=tokenizer.pieceless)
    scored = [Scored(entry["id"], entry["logprob"]) for entry in answer["tokens"]]
    with torch.inference_mode():
        ids: Any = torch.tensor([list(prompt)], device=loaded.input_device)
        logprobs = log_probabilities(loaded.model(ids).logits[0])  # [n, vocab]
    pairs = enumerate(answer["prompt"][1:])
    gaps = [abs(float(logprobs[place, entry["id"]]) - entry["logprob"]) for place, entry in pairs]
    return compare(loaded.model, loaded.input_device, request, scored), max(gaps, default=0.0)
