"""How a text that is longer than the context is scored: in overlapping windows. Nothing here imports torch."""

from typing import NamedTuple

from openllama_cli.errors import UsageError


class Window(NamedTuple):
    """A part of a long prompt that runs at once: tokens begin … end - 1, of which those from `scored` on are scored."""

    begin: int
    end: int
    scored: int


def windows(length: int, context: int, stride: int, lead: int) -> list[Window]:
    """How a prompt of more tokens than the context is scored, each token once.

    The first window fills the context. Each further one ends `stride` tokens later, with `lead` tokens of the prompt's
    beginning in front of as many as still fit: what is scored in it has at least `context - stride` tokens before it. See
    "Perplexity of fixed-length models" in transformers' documentation. Raises UsageError for a stride that leaves no context.
    """
    most = context - lead - 1
    if not 1 <= stride <= most:
        cause = f"--stride {stride} is out of range: the model's context is {context}"
        raise UsageError(cause, f"give 1 to {most}", code="stride_out_of_range")
    found = [Window(0, min(length, context), 0)]
    while found[-1].end < length:
        end = min(length, found[-1].end + stride)
        found.append(Window(end - (context - lead), end, found[-1].end))
    return found


def default_stride(context: int) -> int:
    """Half the context, so that each token has at least as many before it."""
    return max(1, context // 2)
