"""A completions server before its first row: does it answer, which model is meant, and what is known of it."""

import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openllama_cli.batch.remote.attempts import Patience, key_refused
from openllama_cli.errors import ModelError, OlcError, UsageError
from openllama_cli.openai_api import answer
from openllama_cli.openai_api.address import ServerAddress, key_headers

if TYPE_CHECKING:
    import httpx

# As many models as an error lists.
_SHOWN = 8
_LOADING = 503


@dataclass(frozen=True)
class Server:
    """A server that answered.

    url: with /v1. model: its name there. about: what the server says of the model that does not change from start to start:
    `root` (what it loaded under that name), `olc` (of olc's own server: weights, tokenizer, precision).
    """

    url: str
    model: str
    about: Mapping[str, Any]

    @property
    def is_olc(self) -> bool:
        """Whether it is olc's own, which knows more options and gives every row the same bytes."""
        return isinstance(self.about.get("olc"), dict)


def http_options(address: ServerAddress) -> dict[str, Any]:
    """What every client of httpx is made with: the key, and no proxy on the way to this machine.

    Idle connections are asked now and then whether the other side is still there, since a machine that was switched off says
    nothing.
    """
    import socket

    keepalive = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            keepalive.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return {"headers": key_headers(), "trust_env": not address.loopback, "socket_options": keepalive}


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
    patience = patience or Patience()
    listing = _models(address, patience, notice)
    if listing is None:  # It has completions, as far as anybody knows, and no list of models.
        if model is None:
            raise UsageError(f"{address.url} does not list its models", "name the one to use: -m NAME", code="model")
        return Server(address.url, model, {})
    names = list(listing)
    if model is None:
        if len(names) != 1:
            has = f"{address.url} has {len(names)} models: {_shown(names)}"
            raise UsageError(has, "name the one to use: -m NAME", code="model")
        model = names[0]
    if model not in listing:
        raise ModelError(f"{address.url} has no model {model}; it has {_shown(names)}", "name one of these: -m NAME")
    entry = listing[model]
    about = {name: entry[name] for name, kind in (("root", str), ("olc", dict)) if isinstance(entry.get(name), kind)}
    return Server(address.url, model, about)


def _models(address: ServerAddress, patience: Patience, notice: Callable[[str], None]) -> dict[str, dict[str, Any]] | None:
    """The server's models by their names; None for a server that does not list them."""
    import httpx

    url = f"{address.url}/models"
    options = http_options(address)
    transport = httpx.HTTPTransport(socket_options=options.pop("socket_options"), trust_env=options["trust_env"])
    began, told = time.monotonic(), False
    with httpx.Client(timeout=patience.connect, transport=transport, **options) as client:
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
        found = answer.parse(reply.content)
        return {entry["id"]: entry for entry in found["data"] if isinstance(entry["id"], str)}
    except (answer.BadAnswerError, LookupError, TypeError) as problem:
        what = str(problem) if isinstance(problem, answer.BadAnswerError) else "the answer is not a list of models"
        raise OlcError(
            f"{url} is not a completions server's list of models: {what}",
            "check the address; it is the one that OpenAI clients call base_url",
            code="server_answer",
        ) from problem


def _shown(names: list[str]) -> str:
    more = ", …" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) + more) or "none"


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
    reason = str(problem) or type(problem).__name__
    return OlcError(f"no server answers at {url}: {reason}", "start it, or correct --server", code="server_unavailable")
