"""The contract of the published Llama `generate`, on the decode loop.

Prompt token lists in, `(out_tokens, out_logprobs)` out. What differs from the published function, and why, is said at
`loop`: in short, an EOS in an echoed prompt cuts nothing, log-probabilities always belong to the token they stand beside,
and the first token of an echoed prompt has none (None) instead of 0.0.
"""

from collections.abc import Sequence

from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.decode.loop import Prefilled, Request, Scored, decode_rows
from openllama_cli.generation.forward.transformers_forward import Forward


def generate(
    forward: Forward,
    prompt_tokens: Sequence[Sequence[int]],
    max_gen_len: int,
    temperature: float = 0.6,
    top_p: float = 0.9,
    *,
    logprobs: bool = False,
    echo: bool = False,
    eos: frozenset[int] = frozenset(),
    seed: int = 1,
) -> tuple[list[list[int]], list[list[float | None]] | None]:
    """Complete prompts, side by side.

    prompt_tokens: one list of ids a prompt, BOS included. eos: ids that end a completion; the completion is cut there.
    seed: 1 as in the published scripts.

    Returns the tokens of each completion, with `echo` the prompt's in front; and, with `logprobs`, one log-probability a
    returned token, of the untempered distribution, None where nothing predicts it.
    Raises GenerationError for the first prompt that fails.
    """
    config = SamplingConfig(max_gen_len, temperature, top_p, seed=seed, logprobs=0 if logprobs else None)
    requests = (Request(row, prompt, config, eos, score_prompt=echo and logprobs) for row, prompt in enumerate(prompt_tokens))
    rows: list[list[Scored]] = [list(map(Scored, prompt)) if echo else [] for prompt in prompt_tokens]
    for event in decode_rows(forward, requests, max_rows=max(1, len(prompt_tokens))):
        if isinstance(event, Prefilled):
            rows[event.row] = list(event.scored) or rows[event.row]
        elif event.error is not None:
            raise event.error
        elif event.scored is not None and event.finish_reason != "eos":
            rows[event.row].append(event.scored)
    tokens = [[scored.token for scored in row] for row in rows]
    return tokens, [[scored.logprob for scored in row] for row in rows] if logprobs else None
