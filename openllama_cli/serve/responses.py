"""JSON in and out: the body of a request within its limits, answers and errors."""

import asyncio
import json
from typing import Any, cast

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from openllama_cli.serve.errors import ApiError

# Far more than a thousand prompts that fill a context.
MOST_BYTES = 8 << 20
# For a whole body to arrive.
BODY_SECONDS = 30.0


class Json(Response):
    """A JSON document; numbers that JSON does not have are a bug."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return dump(content).encode()


def dump(document: Any) -> str:
    """On one line. What is no text of Unicode (in a request's value, quoted by an error) is escaped."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text if text.isascii() or not _has_surrogate(text) else json.dumps(document, allow_nan=False)


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def error_response(error: ApiError) -> Response:
    """An error in OpenAI's shape."""
    return Json(error.body(), error.status, headers=error.headers)


async def read_json(request: Request, *, limit: int = MOST_BYTES, seconds: float = BODY_SECONDS) -> dict[str, Any]:
    """The object in a request's body. Raises ApiError for one that is too large, too slow or not a JSON object."""
    too_large = ApiError(413, f"the request has more than {limit} bytes; send it in parts", "request_too_large", close=True)
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > 18 or int(length) > limit:
        raise too_large
    data = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                data += chunk
                if len(data) > limit:
                    raise too_large
    except TimeoutError:
        message = f"the request did not arrive within {seconds:g} seconds; send it again"
        raise ApiError(408, message, "request_timeout", close=True) from None
    except ClientDisconnect:
        raise ApiError(400, "the request was cut off", "disconnected", close=True) from None
    try:
        body = json.loads(data)
    except RecursionError:
        raise ApiError(400, "the request's JSON is nested too deeply", "invalid_json") from None
    except ValueError as error:
        if isinstance(error, json.JSONDecodeError):  # Its own message; it quotes nothing of the text.
            why = f"is not JSON: {error.msg} at character {error.pos}"
        else:
            why = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else "has a number of too many digits"
        raise ApiError(400, f"the request {why}", "invalid_json") from None
    if not isinstance(body, dict):
        raise ApiError(400, 'the request is not a JSON object; send one such as {"prompt": "…"}', "invalid_json")
    return cast(dict[str, Any], body)
