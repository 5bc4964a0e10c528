"""OpenAI batch lines: {"custom_id", "method": "POST", "url": "/v1/completions", "body": {"prompt": …}}.

What the body leaves out has olc's defaults (greedy, 64 tokens), not OpenAI's; the body's model is passed over. top_k, min_p
and repetition_penalty are read too, as other servers of this format do.
"""

from collections.abc import Mapping
from typing import Any

from openllama_cli.batch.checks import check_text, kind
from openllama_cli.batch.row_options import read_options
from openllama_cli.batch.rows import InvalidRowError, Row, RowSettings

_URL = "/v1/completions"


def is_openai_line(fields: Mapping[str, Any], variables: tuple[str, ...]) -> bool:
    """Whether an object is such a line. variables: of the template, whose fields are its own whatever their names."""
    return "body" in fields and ("url" in fields or "method" in fields) and not ({"body", "url", "method"} & set(variables))


def may_be_openai_line(data: bytes) -> bool:
    """Whether a line that cannot be parsed looks like one, so that its error is answered in the same shape."""
    return b'"body"' in data and (b'"url"' in data or b'"method"' in data)


def openai_row(index: int, line: int, custom_id: str, fields: Mapping[str, Any], settings: RowSettings) -> Row:
    """The row that a line asks for.

    Raises InvalidRowError.
    """
    method, url, body = fields.get("method", "POST"), fields.get("url"), fields["body"]
    if method != "POST" or url != _URL:
        hint = "; base models complete a prompt and know no messages" if isinstance(url, str) and "chat" in url else ""
        raise InvalidRowError("unsupported_endpoint", f"{method!r} {url!r} is not available, only 'POST' {_URL!r}{hint}")
    if not isinstance(body, dict):
        raise InvalidRowError("invalid_type", f"body is {kind(body)}; give an object with a prompt")
    if settings.template is not None:
        raise InvalidRowError("template_error", "an OpenAI batch line has its whole prompt; run it without a template")
    prompt, tokens = _prompt(body)
    sampling, own_seed = read_options(body, settings, openai=True)
    echo = body.get("echo")
    if echo is not None and not isinstance(echo, bool):
        raise InvalidRowError("bad_option", f"echo is {echo!r}; give true or false")
    return Row(index, custom_id, prompt, tokens, sampling, own_seed, echo=bool(echo), openai=True, line=line)


def _prompt(body: Mapping[str, Any]) -> tuple[str | None, tuple[int, ...] | None]:
    """The prompt as text or as token ids: the body has a text, a list of ids, or a list of one of these."""
    given = body.get("prompt")
    if given is None:
        hint = "; it has messages: base models complete a prompt" if "messages" in body else ""
        raise InvalidRowError("missing_prompt", f"the body has no prompt{hint}")
    if isinstance(given, list) and given and isinstance(given[0], str | list):
        if len(given) > 1:
            raise InvalidRowError("unsupported_option", f"{len(given)} prompts in one line; give each a line of its own")
        given = given[0]
    if isinstance(given, str):
        return check_text(given, "prompt"), None
    # type() and not isinstance: True is an int in Python.
    if isinstance(given, list) and given and all(type(token) is int and token >= 0 for token in given):
        return None, tuple(given)
    what = "an empty list" if given == [] else kind(given)
    raise InvalidRowError("invalid_type", f"prompt is {what}; give a text or a list of token ids")
