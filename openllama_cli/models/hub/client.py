"""Requests to the Hub within limits of time and size, whatever answers there.

Every answer and every redirect is outside data. What a server sends is read up to a limit, an answer that does not come is
given up even if a byte arrives now and then, and whatever else a library raises over an answer becomes `NotAHubError`.
"""

import json
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

from openllama_cli.errors import OlcError, first_line
from openllama_cli.models.hub.environment import connection_error, culprit, headers
from openllama_cli.models.hub.errors import NotAHubError, expected_errors, http_library, timeouts
from openllama_cli.system.bounds import in_thread
from openllama_cli.system.memory import size

ANSWER_SECONDS = 30.0
"""From a request to the end of its answer, or to the first byte of a file; longer if the timeouts in the environment are."""
ANSWER_BYTES = 4_000_000
"""Of a description, unpacked. Real ones have some kilobytes, those of 10,000 files a megabyte."""
_REDIRECTS = 10
_DRAINED = 64_000
_MOVED = frozenset({301, 302, 303, 307, 308})

T = TypeVar("T")


def describe(url: str) -> Any:
    """The JSON at an address. Raises NotAHubError when it is none, or too large, and what `opened` raises."""
    with opened("GET", url) as response:
        content = within(_seconds(timeouts()), partial(_read, response))
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as problem:
        raise NotAHubError("its description of the model is not JSON") from problem


@contextmanager
def opened(method: str, url: str, *, start: int = 0, download: bool = False, follow: bool = True) -> Iterator[Any]:
    """A response whose body has not been read, closed after the block. start: ask for the bytes from there on.

    Redirects are followed, without the token to another server; with `follow` False only those that stay on the server, and
    then a response may be a redirect. An error status raises what huggingface_hub makes of it, without reading its text.

    Raises HubError for an environment that allows no connection, NotAHubError, and the HTTP library's errors.
    """
    from huggingface_hub.utils import get_session  # public, but not in __all__

    try:
        session = get_session()
    except Exception as problem:
        raise connection_error(problem, http_library()) from problem
    sent = headers() | ({"Range": f"bytes={start}-"} if start else {})
    home, limits = _origin(url), timeouts(download=download)
    seconds = _seconds(limits)
    for _ in range(_REDIRECTS):
        response = within(seconds, partial(_send, session, method, url, sent, limits))
        try:
            moved = response.status_code in _MOVED and "location" in response.headers
            length = whole_number(response.headers.get("content-length"))
            unread = length is not None and length <= _DRAINED and (moved or response.status_code >= 400)
            if method == "HEAD" or unread:
                within(seconds, partial(_drain, response))
            if moved:
                url = _redirect(url, response.headers["location"])
                if follow or _origin(url) == home:
                    if _origin(url) != home:
                        sent.pop("authorization", None)
                    continue
            _raise_for_status(response)
            yield response
            return
        finally:
            response.close()
    raise NotAHubError(f"it redirects more than {_REDIRECTS} times")


def body(response: Any) -> Iterator[bytes]:
    """What comes of a body, as it comes. Raises NotAHubError, and the HTTP library's errors."""
    chunks = response.iter_raw()
    while True:
        try:
            chunk = next(chunks, None)
        except Exception as problem:
            raise _translated(problem) from problem
        if chunk is None:
            return
        yield chunk


def _drain(response: Any) -> None:
    """Read what is left of a small answer, so that its connection can be used again."""
    count = 0
    for chunk in response.iter_raw():
        count += len(chunk)
        if count > _DRAINED:
            return


def _send(session: Any, method: str, url: str, sent: dict[str, str], limits: Any) -> Any:
    http = http_library()
    request = session.build_request(method, url, headers=sent, timeout=limits)
    try:
        return session.send(request, stream=True, follow_redirects=False)
    except (http.RemoteProtocolError, http.ReadError, http.WriteError):
        # A connection that was kept may have been closed meanwhile.
        return session.send(request, stream=True, follow_redirects=False)


def _raise_for_status(response: Any) -> None:
    """Raise huggingface_hub's error for an error status. It reads the text of an error whole, so it gets the headers alone."""
    from huggingface_hub.utils import hf_raise_for_status

    if 200 <= response.status_code < 400:
        return
    told = {name: response.headers.get(name, "") for name in ("x-error-code", "x-error-message", "retry-after")}
    named = {name: value for name, value in told.items() if value and value.isascii() and value.isprintable()}
    bare = http_library().Response(response.status_code, headers=named, content=b"", request=response.request)
    hf_raise_for_status(bare)


def within(seconds: float, work: Callable[[], T]) -> T:
    """What `work` returns or raises, or the HTTP library's ReadTimeout when it takes longer.

    A server that sends a byte now and then passes every timeout of a socket; so it works in a thread, which is then left.
    """
    ended, failed = in_thread(seconds, work, "olc-hub-request")
    if ended:
        return ended[0]
    if failed:
        raise _translated(failed[0]) from failed[0]
    raise http_library().ReadTimeout(f"no complete answer within {seconds:.0f} s")


def _seconds(limits: Any) -> float:
    return max(ANSWER_SECONDS, 2 * (limits.read or 0.0))


def _translated(problem: BaseException) -> BaseException:
    """What a library raised over an answer, as one of the errors that callers expect."""
    http = http_library()
    if isinstance(problem, (OlcError, *expected_errors())) or not isinstance(problem, Exception):
        return problem
    if isinstance(problem, (ImportError, OSError, ValueError)) and culprit(http) is not None:
        return connection_error(problem, http)
    return NotAHubError(f"its answer cannot be read ({type(problem).__name__}: {first_line(problem, 80)})")


def _redirect(url: str, location: str) -> str:
    """Where a redirect leads. Raises NotAHubError for what is no address of a server."""
    try:
        target = urljoin(url, location)
        parts = urlsplit(target)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and target.isprintable()
        right = right and http_library().URL(target).host != ""
    except Exception as problem:  # ValueError; InvalidURL; what an international name may raise
        raise NotAHubError(f"it redirects to {location[:60]!r}, which is not an address") from problem
    if not right:
        raise NotAHubError(f"it redirects to {location[:60]!r}, which is not an address of a server")
    return target


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or {"http": 80}.get(parts.scheme, 443)


def _read(response: Any) -> bytes:
    """The body, unpacked, if it is not too large."""
    packed = (response.headers.get("content-encoding") or "identity").strip().lower()
    if packed not in ("identity", "gzip", "x-gzip", "deflate"):
        raise NotAHubError(f"its answer is packed as {packed[:20]!r}, which was not asked for")
    unpack = None if packed == "identity" else zlib.decompressobj(15 + 32)
    content = bytearray()
    for chunk in response.iter_raw():
        try:
            content += chunk if unpack is None else unpack.decompress(chunk, ANSWER_BYTES + 1 - len(content))
        except zlib.error as problem:
            raise NotAHubError("its answer is not packed as it says") from problem
        if len(content) > ANSWER_BYTES:
            raise NotAHubError(f"its description of the model is larger than {size(ANSWER_BYTES)}")
    return bytes(content)


def whole_number(text: str | None) -> int | None:
    """A number of bytes or seconds in a header; None when it is none."""
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,19}", text.strip()) else None
