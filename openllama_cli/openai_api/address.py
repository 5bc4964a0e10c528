"""Where a completions server is, and the key that it asks for."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from openllama_cli.errors import UsageError

# The first that is set is sent. A key on the command line would be seen by everybody on the machine.
KEY_VARIABLES = ("OLC_API_KEY", "OPENAI_API_KEY")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class ServerAddress:
    """url: what OpenAI's clients call base_url, http(s)://HOST[:PORT][/PATH]/v1. host: without brackets."""

    url: str
    host: str

    @classmethod
    def parse(cls, text: str) -> "ServerAddress":
        """The value of --server: with or without /v1, or the whole address of its completions. Raises UsageError."""
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise _bad(text, "is not an address") from None
        if parts.scheme not in ("http", "https") or not host or not text.isprintable() or " " in text:
            meant = f"http://{text}" if "://" not in text and text.strip() else "http://HOST:PORT"
            raise UsageError(f"--server {text} is not an address", f"give it with its scheme, such as {meant}")
        if parts.username is not None or parts.password is not None:
            # Without the address: it holds a secret.
            raise UsageError(
                "--server has a user name or password in its address, which journals and process lists would show",
                f"leave it out; a key goes into the environment, as {KEY_VARIABLES[0]}",
            )
        if parts.query or parts.fragment:
            raise _bad(text, "has a query, which an address does not have")
        path = parts.path.rstrip("/").removesuffix("/completions")
        if not path.endswith("/v1"):
            path += "/v1"
        shown = f"[{host}]" if ":" in host else host
        return cls(f"{parts.scheme}://{shown}{'' if port is None else f':{port}'}{path}", host)

    @property
    def loopback(self) -> bool:
        """Whether it is this machine."""
        return self.host in _LOOPBACK


def _bad(text: str, what: str) -> UsageError:
    return UsageError(f"--server {text} {what}", "give the address of the server, such as http://127.0.0.1:8080")


def key_headers(env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The header with the key, if the environment has one. Raises UsageError for one that cannot be sent."""
    name = next((name for name in KEY_VARIABLES if env.get(name)), None)
    if name is None:
        return {}
    key = env[name].strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UsageError(f"{name} is not a key: it has characters that no header can have", f"export {name} anew, or unset it")
    return {"Authorization": f"Bearer {key}"}
