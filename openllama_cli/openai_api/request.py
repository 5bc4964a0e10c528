"""A request for completions, as OpenAI's API has it, of olc's options."""

from collections.abc import Collection, Sequence
from dataclasses import fields
from typing import Any

from openllama_cli.errors import UsageError
from openllama_cli.generation.choices.config import Choices
from openllama_cli.generation.decode.config import SamplingConfig, flag_of
from openllama_cli.openai_api.constraints import STRUCTURED, structured

# Said even where they are what olc does anyway: servers' defaults are not olc's, whose greedy decoding is their temperature 0.
_ALWAYS = ("max_tokens", "temperature", "top_p")
_UNSET = SamplingConfig()
# Of HTTP, with the value 1: olc's own server is asked for the record of its answer.
RECORD = "X-Olc-Record"
# What olc's own server alone knows. The loop guard only ends a text sooner: elsewhere it is left out unless it was named.
_OLC_ONLY = ("ban", "stop_at", "heal", "loop_guard")


def completion_request(
    model: str,
    prompt: str | Sequence[str] | Sequence[int],
    sampling: SamplingConfig,
    *,
    echo: bool = False,
    given: Collection[str] = (),
    olc: bool = True,
) -> dict[str, Any]:
    """The JSON of a request. Raises UsageError for an option that the server does not have, which would ignore it.

    sampling: what OpenAI does not have is sent only where it asks for something, since a server that does not know it may
    refuse. given: options that were named, which are sent even where their values change nothing here: a server may have other
    defaults. olc: whether olc's own server gets it.
    """
    body: dict[str, Any] = {"model": model, "prompt": prompt if isinstance(prompt, str) else list(prompt)}
    for option in fields(SamplingConfig):
        value = getattr(sampling, option.name)
        if option.name in _ALWAYS or (value is not None and (option.name in given or value != getattr(_UNSET, option.name))):
            body[option.name] = value
    for name in () if olc else _OLC_ONLY:
        if body.pop(name, None) and (name != "loop_guard" or name in given):
            flag = flag_of(name)
            raise UsageError(
                f"the server is not olc's, and others do not have {flag}", f"leave out {flag}", code="unsupported_option"
            )
    constraint = sampling.constraint
    if constraint is not None and not olc:
        # As vLLM has it: one that does not know it ignores it, and the text is then said to be no match.
        del body[constraint.kind]
        body[STRUCTURED] = structured(constraint.kind, constraint.source)
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    else:
        body.pop("stop", None)  # Servers differ on what an empty list is.
    if "logit_bias" in body:
        body["logit_bias"] = {str(token): added for token, added in sampling.logit_bias}
    if sampling.greedy:
        body["temperature"] = 0
    if echo:
        body["echo"] = True
    return body


def choices_request(choices: Choices) -> dict[str, Any]:
    """What olc's own server knows beside OpenAI's request: the answer is one of these."""
    body: dict[str, Any] = {"choices": list(choices.texts), "choices_normalize": choices.normalize}
    if choices.prefix is not None:
        body["choices_prefix"] = choices.prefix
    if choices.neutral is not None:
        body["calibrate_with"] = choices.neutral
    return body
