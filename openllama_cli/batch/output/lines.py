"""Lines of the output: JSON, the same bytes for the same result whenever and beside whatever it was made."""

import json
from typing import Any, Protocol

from openllama_cli.batch.input.rows import Row
from openllama_cli.generation.text.completion import Completion, choice, openai_reason, usage
from openllama_cli.models.tokenizer.base import Tokenizer

# What OpenAI answers a request that cannot be run.
_BAD_REQUEST = 400
_SERVER_ERROR = 500
_ENDED_BY_US = frozenset({"out_of_memory", "non_finite_logits", "worker_lost"})


def success_line(row: Row, completion: Completion, tokenizer: Tokenizer, model: str) -> bytes:
    """A finished row. model: its name, for OpenAI's shape."""
    if not row.openai:
        return to_line(
            {
                "custom_id": row.custom_id,
                "index": row.index,
                "prompt": row.prompt,
                "text": completion.text,
                "finish_reason": openai_reason(completion.finish_reason),
                "usage": usage([completion]),
                "error": None,
            }
        )
    assert row.sampling is not None
    echo = (row.prompt or "") if row.echo else None
    body = {
        "id": f"cmpl-{row.index}",
        "object": "text_completion",
        # The time would make other bytes of the same result.
        "created": 0,
        "model": model,
        "choices": [choice(0, completion, tokenizer, echo=echo, logprobs=row.sampling.logprobs is not None)],
        "usage": usage([completion]),
    }
    return _openai_line(row, {"status_code": 200, "request_id": f"req-{row.index}", "body": body}, None)


def error_line(row: Row, code: str, message: str) -> bytes:
    """A row that failed."""
    if not row.openai:
        return to_line(
            {
                "custom_id": row.custom_id,
                "index": row.index,
                "prompt": row.prompt,
                "text": None,
                "finish_reason": None,
                "usage": None,
                "error": {"code": code, "message": message},
            }
        )
    status = _SERVER_ERROR if code in _ENDED_BY_US else _BAD_REQUEST
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
    response = {"status_code": status, "request_id": f"req-{row.index}", "body": body}
    return _openai_line(row, response, {"code": code, "message": message})


def _openai_line(row: Row, response: dict[str, Any], error: dict[str, str] | None) -> bytes:
    return to_line({"id": f"batch_req_{row.index}", "custom_id": row.custom_id, "response": response, "error": error})


def to_line(document: dict[str, Any]) -> bytes:
    """A document as a line, without newline."""
    # A lone surrogate cannot be written as UTF-8, but its JSON escape can.
    try:
        return json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        return json.dumps(document, allow_nan=False).encode()


class Results(Protocol):
    """Where finished rows go: the journal."""

    def append(self, index: int, code: str | None, line: bytes) -> None:
        """Keep a row's line; code: its error's, or None."""
