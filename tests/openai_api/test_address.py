"""Addresses of servers, as they are typed, and keys, as they stand in the environment."""

import pytest

from openllama_cli.errors import UsageError
from openllama_cli.openai_api.address import ServerAddress, key_headers


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("http://localhost:8000/", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1/", "http://localhost:8000/v1"),
        ("https://host/v1/completions", "https://host/v1"),
        ("https://host/api/v1", "https://host/api/v1"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
    ],
)
def test_an_address_is_what_openai_clients_call_base_url(text: str, url: str) -> None:
    assert ServerAddress.parse(text).url == url
    assert ServerAddress.parse(url).url == url


@pytest.mark.parametrize(
    "text",
    ["", "localhost:8000", "ftp://x", "http://", "http://h:99999", "http://h:x", "http://a b", "http://[::1", "http://h?a=1"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        ServerAddress.parse(text)


def test_a_secret_in_an_address_is_not_repeated() -> None:
    with pytest.raises(UsageError) as caught:
        ServerAddress.parse("http://me:secret@host")
    assert "secret" not in f"{caught.value.cause} {caught.value.remedy}"


def test_the_key_comes_from_the_environment() -> None:
    assert key_headers({}) == {}
    assert key_headers({"OPENAI_API_KEY": "b"}) == {"Authorization": "Bearer b"}
    assert key_headers({"OPENAI_API_KEY": "b", "OLC_API_KEY": " a\n"}) == {"Authorization": "Bearer a"}
    with pytest.raises(UsageError) as caught:
        key_headers({"OLC_API_KEY": "a\nsecret"})
    assert "secret" not in f"{caught.value.cause} {caught.value.remedy}"
