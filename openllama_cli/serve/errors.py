"""Errors as OpenAI's clients read them: a status and `{"error": {"message", "type", "param", "code"}}`."""

import re
from typing import Any

from openllama_cli.errors import OlcError
from openllama_cli.generation.decode.config import as_fields, option_of

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
# What olc's codes mean for the request, where they do not mean that it was wrong.
_STATUS = {"out_of_memory": 503, "shutting_down": 503, "non_finite_logits": 500, "generation": 500}


class ApiError(Exception):
    """An answer that is an error.

    status: of HTTP. message: what is wrong and what to send instead. code: short and stable. param: the field it is about.
    retry_after: seconds. close: end the connection, since the rest of the request was not read.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        *,
        param: str | None = None,
        retry_after: int | None = None,
        close: bool = False,
        **more: Any,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.more = more
        self.headers = {"retry-after": str(retry_after)} if retry_after is not None else {}
        if status == 401:
            self.headers["www-authenticate"] = "Bearer"
        if close:
            self.headers["connection"] = "close"

    def body(self) -> dict[str, Any]:
        """The JSON object."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code, **self.more}}


def bad(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """A request that cannot be answered as it is."""
    return ApiError(400, message, code, param=param)


def of_olc(error: OlcError) -> ApiError:
    """An expected failure of olc; its flags are the request's fields here."""
    cause, remedy = as_fields(error.cause), as_fields(error.remedy)
    if error.code == "invalid_unicode":  # Its remedy is for files.
        remedy = "send valid Unicode"
    named = re.match(r"--[a-z][a-z-]+", error.cause)
    param = option_of(named[0]) if named else "prompt" if error.code in _OF_PROMPTS else None
    status = _STATUS.get(error.code, 400)
    return ApiError(status, f"{cause}; {remedy}", error.code, param=param, cause=error.cause, remedy=error.remedy)


_OF_PROMPTS = ("empty_prompt", "context_length_exceeded", "invalid_unicode", "token_id_out_of_range")
