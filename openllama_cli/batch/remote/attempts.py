"""What becomes of a row that was sent: its result, an error of its own, another attempt, or the end of the run."""

import email.utils
import random
import time
from dataclasses import dataclass

from openllama_cli.errors import OlcError
from openllama_cli.openai_api import answer
from openllama_cli.openai_api.models import key_refused

# The server is full, or not ready: no fault of the row, which waits as long as it takes.
_FULL = (429, 503)
# Of 4xx, those that the same request may not get again.
_MAY_PASS = (408, 409, 425)
# Nothing longer is waited for at a time, whatever the server says.
_LONGEST_WAIT = 300.0


@dataclass(frozen=True)
class Patience:
    """Seconds, and numbers of attempts.

    connect: for a connection. answer: for a row's answer. first, most: between two attempts, doubled each time from the first
    to the most. attempts: that a row has, if the server fails with it. give_up: how long nothing but refused connections and a
    full house is borne before the run ends.
    """

    connect: float = 30
    answer: float = 3600
    first: float = 0.5
    most: float = 30
    attempts: int = 6
    give_up: float = 900

    def seconds(self, attempt: int) -> float:
        """How long to wait after the n-th attempt, from 1; not all rows at the same time."""
        return float(min(self.most, self.first * 2 ** (attempt - 1)) * random.uniform(0.5, 1))


class Retry(Exception):  # noqa: N818, it is not an error
    """Another attempt may succeed.

    code, message: of the row's error if none does. full: the server is to blame and not the row, which is tried until it is
    answered. after: seconds that the server asks for.
    """

    def __init__(self, code: str, message: str, *, full: bool = False, after: float | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.full, self.after = code, message, full, after


class Refused(Exception):  # noqa: N818, it is the row's
    """The server refuses the row. code, message: of its error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


def judge(url: str, status: int, retry_after: str | None, data: bytes) -> None:
    """Return for an answer of status 200. Raises Retry, Refused, or OlcError for what no row can be answered with."""
    if status == 200:
        return
    code, message = answer.refusal(data)
    told = f"{status}: {message}" if message else f"status {status}"
    if status in _FULL:
        raise Retry("server_error", told, full=True, after=wait_of(retry_after))
    if status >= 500 or status in _MAY_PASS:
        raise Retry("server_error", told, after=wait_of(retry_after))
    if status in (401, 403):
        raise key_refused(url, message)
    if status in (404, 405, 410):
        raise OlcError(
            f"{url}/completions does not complete prompts ({told})",
            "check the address, and that -m is one of the models that the server lists; the same command resumes",
            code="server_refused",
        )
    if status < 400:
        raise OlcError(
            f"{url}/completions answers with a redirection ({status})",
            "give --server the address that it leads to",
            code="server_refused",
        )
    raise Refused(code or "server_refused", told)


def wait_of(retry_after: str | None) -> float | None:
    """What a Retry-After header asks for, in seconds, by number or by date; None for none that can be read."""
    if retry_after is None:
        return None
    text = retry_after.strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(seconds, 0.0), _LONGEST_WAIT) if seconds == seconds else None
