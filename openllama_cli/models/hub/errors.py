"""The Hub through huggingface_hub's HTTP client: timeouts, and what each failure means in two lines.

huggingface_hub is imported inside functions: a model that is cached never needs it.
"""

import importlib
import os
from typing import Any
from urllib.parse import urlsplit

from openllama_cli.errors import HubError, first_line
from openllama_cli.models.catalogue import suggest
from openllama_cli.models.hub.environment import proxy_in_use, unusable_certificates
from openllama_cli.system.paths import hub_endpoint

CONNECT_SECONDS = 5.0
UNREACHABLE = "hub_unreachable"


class NotAHubError(Exception):
    """What answered at the Hub's address is something else, such as a login page."""


def http_library() -> Any:
    """The HTTP library under huggingface_hub: httpx2, or httpx in its first 1.x versions. olc depends on neither itself."""
    from huggingface_hub.errors import HfHubHTTPError

    base = next(one for one in HfHubHTTPError.__mro__ if one.__name__ == "HTTPError")
    return importlib.import_module(base.__module__.partition(".")[0])


def timeouts(*, download: bool = False) -> Any:
    """Seconds to wait for an answer: HF_HUB_DOWNLOAD_TIMEOUT or HF_HUB_ETAG_TIMEOUT (10), and at most 5 to connect."""
    from huggingface_hub import constants

    seconds = float(constants.HF_HUB_DOWNLOAD_TIMEOUT if download else constants.HF_HUB_ETAG_TIMEOUT)
    return http_library().Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))


def expected_errors() -> tuple[type[Exception], ...]:
    """What asking the Hub can raise; `hub_error` puts each into words."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    http = http_library()
    return (
        HfHubHTTPError,
        http.HTTPError,
        http.InvalidURL,
        http.StreamError,
        OfflineModeIsEnabled,
        HFValidationError,
        NotAHubError,
    )


def hub_error(problem: Exception, repo_id: str, revision: str | None) -> HubError:
    """The error that one of `expected_errors` means for the user."""
    from huggingface_hub import errors

    host = urlsplit(hub_endpoint()).netloc or hub_endpoint()
    http = http_library()
    match problem:
        case errors.GatedRepoError():
            return HubError(
                f"{repo_id} is gated, and {_token()} has no access to it",
                f"accept its terms at {hub_endpoint()}/{repo_id}, then set HF_TOKEN or run `hf auth login`",
                code="gated",
            )
        case errors.RevisionNotFoundError():
            return HubError(
                f"{repo_id} has no revision {revision or 'main'}",
                f"leave out --revision for main, or see {hub_endpoint()}/{repo_id}/tree/main",
                code="revision_not_found",
            )
        case errors.RepositoryNotFoundError():
            # The Hub answers alike for what does not exist and for what one may not see.
            alias = suggest(repo_id)
            remedy = f"did you mean {alias}? " if alias else "check the spelling; "
            return HubError(
                f"{host} has no model {repo_id}, or it is private and {_token()} has no access",
                remedy + "for a private model set HF_TOKEN or run `hf auth login`",
                code="repo_not_found",
            )
        case errors.OfflineModeIsEnabled():
            return offline_error(repo_id, revision)
        case errors.HfHubHTTPError():
            return _refused(problem.response.status_code, repo_id, host)
        case http.TimeoutException():
            return _unreachable(f"{host} did not answer in time")
        case http.TransportError():
            return _not_reached(problem, host)
        case errors.HFValidationError():
            return HubError(f"{repo_id} is not a Hub id", "write it as organization/name", code="repo_id")
        case _:
            return HubError(
                f"{host} did not respond like a Hub: {first_line(problem, 120)}",
                "check HF_ENDPOINT and any proxy",
                code="not_a_hub",
            )


def offline_error(repo_id: str, revision: str | None, missing: tuple[str, ...] = ()) -> HubError:
    """The network is forbidden and the model is not in the cache, or incomplete."""
    name = f"{repo_id} at revision {revision}" if revision else repo_id
    state = f"is incomplete in the cache (missing {', '.join(missing[:3])})" if missing else "is not in the cache"
    return HubError(
        f"{name} {state}, and --offline or HF_HUB_OFFLINE forbids the network",
        f"run `olc models pull {repo_id}` with network access, or see `olc models list`",
        code="offline",
    )


def _refused(status: int, repo_id: str, host: str) -> HubError:
    if status == 401:
        return HubError(
            f"{host} refused {_token()} for {repo_id} (401)",
            "set HF_TOKEN to a valid token, or unset it for a public model",
            code="unauthorized",
        )
    if status == 403:
        return HubError(
            f"{host} refuses access to {repo_id} (403)",
            f"use a token that may read it, and see {hub_endpoint()}/{repo_id}",
            code="forbidden",
        )
    if status == 429:
        return HubError(f"{host} is limiting requests (429)", "wait a few minutes, or set HF_TOKEN", code="busy")
    return HubError(f"{host} answered {status} for {repo_id}", "run the same command again later", code="hub_status")


def _not_reached(problem: Exception, host: str) -> HubError:
    reason = first_line(problem, 120)
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return unusable_certificates() or HubError(
            f"the certificate of {host} cannot be verified: {reason}",
            "set SSL_CERT_FILE to the certificates that your network uses, a file in PEM format",
            code=UNREACHABLE,
        )
    proxy = proxy_in_use(hub_endpoint())
    if proxy is None:
        return _unreachable(f"cannot reach {host}: {reason}")
    name = proxy.partition(" ")[0]
    return HubError(
        f"cannot reach {host} through {proxy}: {reason}",
        f"check that proxy, or unset {name}; then the network",
        code=UNREACHABLE,
    )


def _unreachable(cause: str) -> HubError:
    return HubError(
        cause, "check the network, proxy and HF_ENDPOINT; cached models work offline: see `olc models list`", code=UNREACHABLE
    )


def _token() -> str:
    return "the token in HF_TOKEN" if os.environ.get("HF_TOKEN") else "your saved token, if any,"
