"""Environment variables that break a connection: two lines that name the variable, and no password."""

from pathlib import Path

import pytest

from openllama_cli.errors import HubError
from openllama_cli.models.hub import environment
from openllama_cli.models.hub import pull as hub
from openllama_cli.models.hub.errors import hub_error
from tests.support.hub.fixtures import cache, server, tiny
from tests.support.hub.server import HubServer

__all__ = ["cache", "server", "tiny"]


@pytest.fixture(autouse=True)
def fresh_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client is made anew, as in a process of its own; and nothing of the tester's own network is in the way."""
    from huggingface_hub.utils import close_session

    for name in (*environment._PROXIES, *environment._CERTIFICATES, *environment._OF_OTHERS):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    close_session()


def failure() -> HubError:
    with pytest.raises(HubError) as caught:
        hub.pull("org/tiny")
    assert "\n" not in caught.value.cause + caught.value.remedy
    return caught.value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTPS_PROXY", "socks5h://user:secret@localhost:1"),
        ("ALL_PROXY", "socks5://localhost:1"),
        ("https_proxy", "foo://user:secret@localhost:1"),
        ("https_proxy", f"foo://user:{'secret' * 50}@localhost:1"),
        ("HTTP_PROXY", "http://[::1"),
        ("SSL_CERT_FILE", "/nowhere/cert.pem"),
        ("SSL_CERT_FILE", __file__),
        ("SSL_CERT_FILE", "/"),
        ("HF_HUB_ETAG_TIMEOUT", "abc"),
        ("HF_HUB_ETAG_TIMEOUT", ""),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "1.5"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "-1"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "9" * 5000),
        ("HF_ENDPOINT", "huggingface"),
        ("HF_ENDPOINT", "http://[::1"),
        ("HF_ENDPOINT", "http://host:port"),
        ("HF_ENDPOINT", "ftp://host"),
        ("HF_ENDPOINT", "http://a b"),
        ("HF_TOKEN", "hf_ä"),
        ("HF_TOKEN", "hf_a\x01"),
        ("HF_OIDC_RESOURCE", "x"),
    ],
)
def test_the_variable_is_named(tiny: HubServer, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    error = failure()
    assert error.code == "environment"
    assert name in error.cause
    assert name in error.remedy
    assert "secret" not in error.cause


def test_a_proxy_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    monkeypatch.setenv("HTTP_PROXY", "http://user:secret@127.0.0.1:1")
    error = failure()
    assert error.code == "hub_unreachable"
    assert "HTTP_PROXY (http://127.0.0.1:1)" in error.cause
    assert "unset HTTP_PROXY" in error.remedy


def test_an_empty_address_is_the_public_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "")
    environment.check_endpoint()


def test_a_certificate_that_cannot_be_verified_names_the_variable_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    from openllama_cli.models.hub.errors import http_library

    problem = http_library().ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate")
    assert "SSL_CERT_FILE" in hub_error(problem, "org/tiny", None).remedy
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/company.pem")
    assert hub_error(problem, "org/tiny", None).remedy == "export SSL_CERT_FILE=/company.pem"
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/our company.pem")
    assert hub_error(problem, "org/tiny", None).remedy == "export SSL_CERT_FILE='/our company.pem'"
    monkeypatch.setenv("SSL_CERT_DIR", "/nowhere")
    assert "SSL_CERT_DIR" in hub_error(problem, "org/tiny", None).cause


def test_the_variable_of_the_cache_is_the_one_in_force(
    tiny: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for name in ("HF_HOME", "HUGGINGFACE_HUB_CACHE", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "file"))
        assert failure().remedy == f"set {name} to a writable folder"
    monkeypatch.delenv("HUGGINGFACE_HUB_CACHE")
    monkeypatch.setenv("HF_HUB_CACHE", "~no-such-user/x")
    monkeypatch.chdir(tmp_path)
    hub.pull("org/tiny")
