"""Environment variables that break every connection to the Hub, found and named.

Two are read when huggingface_hub is imported, which transformers does too; the others when its HTTP client is made. What each
library accepts is its own matter: `culprit` takes one variable away at a time and sees whether the client can be made then.
"""

import os
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from openllama_cli.errors import HubError, first_line
from openllama_cli.system.paths import hub_endpoint

_SECONDS = ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT")
_MOST_SECONDS = 86_400
_PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")
_OF_OTHERS = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def check_seconds() -> None:
    """Raise HubError for a timeout that is no number: with it neither huggingface_hub nor transformers can be imported."""
    for name in _SECONDS:
        value = os.environ.get(name)
        if value is None:
            continue
        try:
            right = 0 <= int(value) <= _MOST_SECONDS
        except ValueError:
            right = False
        if not right:
            raise _wrong(f"{name} is {value[:40]!r}, not a whole number of seconds", f"unset {name}, or set it to 30")


def check_endpoint() -> None:
    """Raise HubError when HF_ENDPOINT is no address of a server."""
    endpoint = hub_endpoint()
    try:
        parts = urlsplit(endpoint)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and endpoint.isprintable() and " " not in endpoint
        right = right and parts.port != 0  # Not a number: ValueError.
    except ValueError:
        right = False
    if not right:
        raise _wrong(
            f"HF_ENDPOINT is {endpoint[:80]!r}, not an address such as https://huggingface.co",
            "unset HF_ENDPOINT for the public Hub, or begin it with https://",
        )


def connection_error(problem: Exception, http: Any) -> HubError:
    """Why no HTTP client could be made. http: the library that makes it."""
    name = culprit(http)
    if name is None:
        set_ = ", ".join(_set(*_PROXIES, *_CERTIFICATES, "OPENSSL_CONF")) or "none is set"
        return _wrong(
            f"a connection to the Hub cannot be prepared: {first_line(problem, 120)}",
            f"check the variables for proxies and certificates ({set_})",
        )
    value = _without_password(os.environ[name])
    if name in _CERTIFICATES:
        what = {"SSL_CERT_DIR": "a folder of certificates", "SSLKEYLOGFILE": "a file that can be written"}
        wanted = what.get(name, "a file of certificates (PEM)")
        reason = getattr(problem, "strerror", None) or first_line(problem, 80)
        return _wrong(f"{name} is {value}, which cannot be used: {reason}", f"unset {name}, or set it to {wanted}")
    if isinstance(problem, ImportError) and "socks" in value:
        return _wrong(
            f"{name} is {value}, and the package for SOCKS proxies is not installed",
            f"`pip install socksio`, or `unset {name}`",
        )
    return _wrong(
        f"{name} is {value}, which cannot be used: {first_line(problem, 80)}" if value else f"{name} cannot be used",
        f"unset {name}, or set it to an address such as http://proxy.example.org:3128",
    )


def culprit(http: Any) -> str | None:
    """The variable without which an HTTP client can be made; None when it can be made anyway, or no single one is to blame."""
    if _can_connect(http):
        return None
    for name in _set(*_PROXIES, *_CERTIFICATES):
        value = os.environ.pop(name)
        try:
            if _can_connect(http):
                return name
        finally:
            os.environ[name] = value
    return None


def unusable_certificates() -> HubError | None:
    """Which variable is behind a certificate that could not be verified, if one is."""
    folder = os.environ.get("SSL_CERT_DIR")
    if folder and not Path(folder).is_dir():
        return _wrong(f"SSL_CERT_DIR is {folder}, which is not a folder", "unset SSL_CERT_DIR, or set SSL_CERT_FILE")
    ignored = next(iter(_set(*_OF_OTHERS)), None)
    if ignored is not None and not os.environ.get("SSL_CERT_FILE"):
        return _wrong(
            f"the Hub's certificate cannot be verified, and {ignored} is not used by huggingface_hub",
            f"export SSL_CERT_FILE={shlex.quote(os.environ[ignored])}",
        )
    return None


def proxy_in_use(url: str) -> str | None:
    """The variable that sends requests for this URL through a proxy, with the proxy's address and without its password."""
    from urllib.request import getproxies, proxy_bypass  # It takes longer to import than a command to start.

    parts = urlsplit(url)
    try:
        if proxy_bypass(parts.hostname or ""):
            return None
    except (OSError, ValueError):
        pass
    proxies = getproxies()
    for kind in (parts.scheme, "all"):
        if proxies.get(kind):
            name = next(iter(_set(f"{kind}_proxy".upper())), None)
            return f"{name} ({_without_password(proxies[kind])})" if name else None
    return None


def headers() -> dict[str, str]:
    """Those of every request: the token, if there is one. Raises HubError for a token that cannot be read or sent."""
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers  # public, but not in __all__

    from openllama_cli.version import __version__

    named = next(iter(_set("HF_OIDC_RESOURCE", *_TOKENS)), None)
    where = named or f"the token file {constants.HF_TOKEN_PATH}"
    remedy = f"unset {named}" if named else "set HF_TOKEN, or run `hf auth login` again"
    try:
        made: dict[str, str] = build_hf_headers(library_name="olc", library_version=__version__)
    except Exception as problem:
        raise _wrong(f"{where} cannot be used: {first_line(problem, 80)}", remedy) from problem
    if not all(character.isascii() and character.isprintable() for character in made.get("authorization", "")):
        raise _wrong(f"{where} has characters that no token has", f"{remedy}, or copy the token again")
    agent = made.get("user-agent", "")
    made["user-agent"] = "".join(character for character in agent if character.isascii() and character.isprintable())
    # A compressed answer cannot be continued by offset, and its size says nothing of what it becomes.
    return made | {"Accept-Encoding": "identity"}


def _can_connect(http: Any) -> bool:
    try:
        http.create_ssl_context()
        http.Client().close()
    except Exception:
        return False
    return True


def _set(*names: str) -> list[str]:
    """The names of variables that are set, in lower case too, as the libraries read them."""
    return [spelled for name in names for spelled in (name, name.lower()) if os.environ.get(spelled)]


def _without_password(address: str) -> str:
    scheme, separator, rest = address.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"[:200]


def _wrong(cause: str, remedy: str) -> HubError:
    return HubError(cause, remedy, code="environment")
