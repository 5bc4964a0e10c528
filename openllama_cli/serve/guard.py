"""Who may ask, and with what: checked before any route sees a request. And the one log line of each.

Any web page can send requests to a server on this computer. So a request must name this server as its `Host` (a page whose name
was pointed at 127.0.0.1 cannot), must come from no other `Origin` than allowed, and a POST must be `application/json`, which a
page may not send elsewhere without asking first (a preflight, which is refused).
"""

import hmac
import ipaddress
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from openllama_cli.serve.errors import ApiError
from openllama_cli.serve.responses import error_response

_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]/@]*)(?::[0-9]*)?")
# Where a request's log entry stands in its scope.
ENTRY = "olc.entry"


@dataclass(frozen=True)
class Access:
    """What is allowed.

    host: where the server listens. key: that requests must bring; None for nobody's. origins: of pages beside its own. public:
    paths that need no key.
    """

    host: str = "127.0.0.1"
    key: str | None = None
    origins: tuple[str, ...] = ()
    public: frozenset[str] = frozenset(("/health",))

    def check(self, scope: Scope) -> None:
        """Raise ApiError for a request that may not be answered."""
        headers = Headers(scope=scope)
        # No web page reaches a Unix socket, and its folder lets no other user in.
        if not local(scope):
            self._check_host(headers.get("host", ""))
            self._check_origin(headers.get("origin"), headers.get("host", ""))
            if scope["method"] != "OPTIONS" and scope["path"] not in self.public:
                self._check_key(headers.get("authorization", ""))
        if scope["method"] == "POST":
            _check_type(headers.get("content-type", ""))

    def _check_host(self, given: str) -> None:
        name = host_name(given)
        if name is not None and (name == "localhost" or name == self.host.lower() or is_loopback(name)):
            return
        if name is not None and not is_loopback(self.host) and self.host != "localhost":
            allowed = {socket.gethostname().lower(), *(host_name(origin.partition("//")[2]) for origin in self.origins)}
            if _is_address(name) or name in allowed:
                return
        raise ApiError(403, "the Host header does not name this server; send the request to its own address", "forbidden_host")

    def _check_origin(self, origin: str | None, host: str) -> None:
        if origin is None or origin in self.origins or origin.lower() in (f"http://{host}".lower(), f"https://{host}".lower()):
            return
        message = "requests from pages of other origins are refused; `olc serve --allow-origin URL` allows one"
        raise ApiError(403, message, "forbidden_origin")

    def _check_key(self, given: str) -> None:
        if self.key is None:
            return
        scheme, _, key = given.partition(" ")
        # Both are hashed inside, so that no time tells lengths or how many characters agree.
        if scheme.lower() != "bearer" or not hmac.compare_digest(key.strip().encode(), self.key.encode()):
            message = "the API key is missing or wrong; send the one of --api-key-file as `Authorization: Bearer KEY`"
            raise ApiError(401, message, "invalid_api_key")


def _check_type(given: str) -> None:
    if given.partition(";")[0].strip().lower() != "application/json":
        message = "the request is not JSON; send it with the header Content-Type: application/json"
        raise ApiError(415, message, "unsupported_media_type")


def local(scope: Scope) -> bool:
    """Whether a request came through the Unix socket."""
    server = scope.get("server")
    return server is not None and server[1] is None


def host_name(given: str) -> str | None:
    """The name in a Host header, lower case and without port and brackets; None if it is malformed."""
    found = _HOST.fullmatch(given)
    return found[1].strip("[]").lower() if found is not None else None


def is_loopback(name: str) -> bool:
    """Whether an address is of this computer alone; false for names."""
    return _is_address(name) and ipaddress.ip_address(name).is_loopback


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


@dataclass
class Entry:
    """A request in the log. Neither prompts nor keys nor query strings are in it."""

    method: str
    path: str
    status: int = 0
    code: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    started: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0


class Guard:
    """The outermost part of the application. done: called with every request's entry once it is answered."""

    def __init__(self, app: ASGIApp, access: Access, headers: dict[str, str], done: Callable[[Entry], Any]) -> None:
        self._app, self._access, self._done = app, access, done
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        entry = scope[ENTRY] = Entry(scope["method"], scope["path"])

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                entry.status = message["status"]
                message = {**message, "headers": [*message.get("headers", []), *self._headers]}
            await send(message)

        try:
            try:
                self._access.check(scope)
            except ApiError as error:
                entry.code = error.code
                origin = Headers(scope=scope).get("origin", "")
                if origin in self._access.origins:  # Or the page could not read why. Past this, starlette adds it.
                    error.headers |= {"access-control-allow-origin": origin, "vary": "Origin"}
                await error_response(error)(scope, receive, watched)
            else:
                await self._app(scope, receive, watched)
        finally:
            entry.seconds = time.perf_counter() - entry.started
            self._done(entry)
