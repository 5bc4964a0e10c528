"""A completions server before its first row: does it answer, which model is meant, and what is known of it."""

import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openllama_cli.batch.remote.attempts import Patience
from openllama_cli.errors import OlcError, UsageError
from openllama_cli.openai_api import answer
from openllama_cli.openai_api.address import ServerAddress, key_headers
from openllama_cli.openai_api.models import choose_model, key_refused, listing, not_completions, unavailable

if TYPE_CHECKING:
    import httpx

_LOADING = 503
# What olc's own server says of itself that results do not depend on. They do on always_bos: prompts may be ids.
_OF_THE_START = ("max_rows", "machine")


@dataclass(frozen=True)
class Server:
    """A server that answered.

    url: with /v1. model: its name there. about: what the server says of the model that does not change from start to start:
    `root` (what it loaded under that name), `olc` (of olc's own server: weights, tokenizer, precision). machine: on which olc's
    own server runs, if it says so.
    """

    url: str
    model: str
    about: Mapping[str, Any]
    machine: Mapping[str, Any] | None = None

    @property
    def is_olc(self) -> bool:
        """Whether it is olc's own, which knows more options and gives every row the same bytes."""
        return isinstance(self.about.get("olc"), dict)


def client_options(address: ServerAddress) -> dict[str, Any]:
    """What every client of httpx is made with: the key, and nothing of .netrc for this machine."""
    return {"headers": key_headers(), "trust_env": not address.loopback}


def transport_options(address: ServerAddress) -> dict[str, Any]:
    """What every transport of httpx is made with: the proxy that the environment names, but none on the way to this machine.

    Idle connections are asked now and then whether the other side is still there, since a machine that was switched off says
    nothing. Without TLS no certificates are loaded, which takes a tenth of a second.
    """
    import socket

    keepalive = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            keepalive.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    tls = address.url.startswith("https:")
    return {"trust_env": not address.loopback, "socket_options": keepalive, "verify": tls, "proxy": _proxy(address)}


def _proxy(address: ServerAddress) -> str | None:
    """The proxy on the way to a server. httpx reads the environment itself only where it makes the transport too.

    Raises UsageError for one of another kind than HTTP.
    """
    from urllib.request import getproxies, proxy_bypass

    proxies = {} if address.loopback or proxy_bypass(address.host) else getproxies()
    named = proxies.get(address.url.partition(":")[0]) or proxies.get("all")
    if not named:
        return None
    proxy = named if "://" in named else f"http://{named}"
    if not proxy.startswith(("http://", "https://")):
        raise UsageError(
            f"the proxy on the way to {address.url} is not an HTTP one: {proxy.partition('://')[0]}",
            f"add {address.host} to NO_PROXY, or name an HTTP proxy",
        )
    return proxy


def connect(
    address: ServerAddress,
    model: str | None,
    *,
    patience: Patience | None = None,
    notice: Callable[[str], None] = lambda text: None,
) -> Server:
    """Ask a server for its models. model: the one that is meant; None is the only one that it has.

    A server that is still loading is waited for. Raises OlcError where none answers, the key is refused, or the model is not
    there; UsageError where it has several and none was named.
    """
    models = _models(address, patience or Patience(), notice)
    name = choose_model(address.url, models, model)
    entry = (models or {}).get(name, {})
    about = {name: entry[name] for name, kind in (("root", str), ("olc", dict)) if isinstance(entry.get(name), kind)}
    machine = None
    if "olc" in about:
        machine = about["olc"].get("machine")
        about["olc"] = {name: value for name, value in about["olc"].items() if name not in _OF_THE_START}
    return Server(address.url, name, about, machine if isinstance(machine, dict) else None)


def _models(address: ServerAddress, patience: Patience, notice: Callable[[str], None]) -> dict[str, dict[str, Any]] | None:
    """The server's models by their names; None for a server that does not list them."""
    import httpx

    url = f"{address.url}/models"
    transport = httpx.HTTPTransport(**transport_options(address))
    began, told = time.monotonic(), False
    with httpx.Client(timeout=patience.connect, transport=transport, **client_options(address)) as client:
        while True:
            try:
                reply = client.get(url)
            except httpx.TransportError as problem:
                raise unreachable(address.url, problem) from problem
            if reply.status_code != _LOADING or time.monotonic() - began > patience.give_up:
                break
            if not told:
                told = True
                notice(f"{address.url} is not ready yet (503): {answer.refusal(reply.content)[1]}; waiting for it")
            time.sleep(patience.seconds(2))
    if reply.status_code in (401, 403):
        raise key_refused(address.url, answer.refusal(reply.content)[1])
    if reply.status_code in (404, 405, 501):
        return None
    try:
        if reply.status_code != 200:
            raise answer.BadAnswerError(f"status {reply.status_code}: {answer.refusal(reply.content)[1]}")
        return listing(reply.content)
    except answer.BadAnswerError as problem:
        raise not_completions(url, str(problem)) from problem


def unreachable(url: str, problem: "httpx.TransportError") -> OlcError:
    """The error for a server that cannot be connected to."""
    cause: BaseException | None = problem
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return OlcError(
                f"{url} has a certificate that is not trusted here: {cause.verify_message}",
                "export SSL_CERT_FILE with the certificate of its authority",
                code="server_unavailable",
            )
        cause = cause.__cause__ or cause.__context__
    return unavailable(url, str(problem) or type(problem).__name__)
