"""A request for completions, as OpenAI's API has it, of olc's options."""

from collections.abc import Collection, Sequence
from typing import Any

from openllama_cli.generation.decode.config import SamplingConfig

# What OpenAI does not have and its other servers have in common; sent only where it was asked for, since a server that does not
# know it may refuse.
_BEYOND_OPENAI = ("top_k", "min_p", "repetition_penalty")
_UNSET = SamplingConfig()


def completion_request(
    model: str,
    prompt: str | Sequence[str] | Sequence[int],
    sampling: SamplingConfig,
    *,
    echo: bool = False,
    given: Collection[str] = (),
) -> dict[str, Any]:
    """The JSON of a request.

    sampling: all of it is said, since servers' defaults are not olc's (their temperature is 1). given: options that were named,
    which are sent even where their values change nothing here: a server may have other defaults.
    """
    body: dict[str, Any] = {
        "model": model,
        "prompt": prompt if isinstance(prompt, str) else list(prompt),
        "max_tokens": sampling.max_tokens,
        "temperature": 0 if sampling.greedy else sampling.temperature,
        "top_p": sampling.top_p,
    }
    for name in _BEYOND_OPENAI:
        value = getattr(sampling, name)
        if name in given or value != getattr(_UNSET, name):
            body[name] = value
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.logprobs is not None:
        body["logprobs"] = sampling.logprobs
    if echo:
        body["echo"] = True
    return body
