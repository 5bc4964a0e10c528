"""Hubs, proxies and mirrors that send anything at all: two lines, within limits, and never a wrong file.

`python -m tests.models.hub.test_hostile 5000` tries that many mutations of a Hub's answers; CI tries a few hundred.
"""

import gzip
import itertools
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from openllama_cli.errors import HubError, OlcError
from openllama_cli.models.hub import client, download
from openllama_cli.models.hub import pull as hub
from tests.support.hub.fixtures import SMALL, cache
from tests.support.hub.raw import COMMIT, RawHub, reply

__all__ = ["cache"]

FILES = SMALL | {"model.safetensors": bytes(range(256)) * 20}
API = "GET /api/models/org/tiny"
WEIGHTS = f"/org/tiny/resolve/{COMMIT}/model.safetensors"


@pytest.fixture
def raw(monkeypatch: pytest.MonkeyPatch) -> Iterator[RawHub]:
    with RawHub() as running:
        running.files(FILES)
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def failure() -> OlcError:
    with pytest.raises(OlcError) as caught:
        hub.pull("org/tiny")
    assert "\n" not in caught.value.cause + caught.value.remedy
    return caught.value


DESCRIPTION = {"sha": COMMIT, "siblings": [{"rfilename": name} for name in FILES]}


@pytest.mark.parametrize(
    "answer",
    [
        b'{"sha": 7, "siblings": []}',
        json.dumps(DESCRIPTION | {"siblings": [{"rfilename": None}]}).encode(),
        json.dumps(DESCRIPTION | {"siblings": [{"rfilename": ["x"]}]}).encode(),
        json.dumps(DESCRIPTION | {"siblings": 7}).encode(),
        json.dumps(DESCRIPTION | {"siblings": ["x"]}).encode(),
        b"[" * 200_000,
        b'{"sha": ' + b"9" * 5000 + b"}",
        b'"\\ud800"',
    ],
    ids=lambda answer: repr(answer[:30]),
)
def test_json_of_another_shape(raw: RawHub, answer: bytes) -> None:
    raw.replies[API] = [reply(answer)]
    assert failure().code == "not_a_hub"


def test_answer_without_end_is_left(raw: RawHub) -> None:
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    for status in (head, head.replace(b"200 OK", b"500 No"), head.replace(b"200 OK", b"302 Found\r\nLocation: /x")):
        raw.sent = 0
        raw.replies[API] = itertools.chain([status], itertools.repeat(b" " * 65536))
        assert failure().code in ("not_a_hub", "hub_status")
        assert raw.sent < 3 * client.ANSWER_BYTES


def test_answer_that_unpacks_without_end_is_left(raw: RawHub) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    for packed in ("gzip", "deflate", "br"):
        raw.replies[API] = [reply(bomb, Content_Encoding=packed)]
        assert failure().code == "not_a_hub", packed


@pytest.mark.parametrize("packed", [gzip.compress(json.dumps(DESCRIPTION).encode(), mtime=0), b"\x1f\x8b nothing"])
def test_packed_answer_is_unpacked_or_named(raw: RawHub, packed: bytes) -> None:
    raw.replies[API] = [reply(packed, Content_Encoding="gzip")]
    if packed.endswith(b"nothing"):
        assert failure().code == "not_a_hub"
    else:
        assert (hub.pull("org/tiny") / "model.safetensors").read_bytes() == FILES["model.safetensors"]


@pytest.mark.parametrize(
    "location", ["http://[::1", "file:///etc/passwd", "ftp://x/y", "http://a:b/", "http://é\x80/", "gopher:x"]
)
@pytest.mark.parametrize("what", [API, f"HEAD {WEIGHTS}", f"GET {WEIGHTS}"], ids=["description", "size", "file"])
def test_redirect_to_no_server_is_named_at_once(raw: RawHub, location: str, what: str) -> None:
    raw.replies[what] = [reply(b"", "302 Found", Location=location)]
    error = failure()
    assert error.code == "not_a_hub"
    assert "redirects to" in error.cause or "no size" in error.cause or "answer cannot be read" in error.cause


def test_redirects_in_a_circle_end(raw: RawHub) -> None:
    raw.replies[API] = [reply(b"", "307 Temporary Redirect", Location="/api/models/org/tiny")]
    assert failure().code == "not_a_hub"


@pytest.mark.parametrize("asked", ["²", "-1", "1e9", "x" * 5000, "9" * 5000])
def test_retry_after_that_is_no_number(raw: RawHub, asked: str) -> None:
    right = raw.replies[f"GET {WEIGHTS}"]
    answers = iter([[reply(b"", "503 Busy", Retry_After=asked)], right])

    class Turns(dict[str, object]):
        def get(self, name: str, otherwise: object = None) -> object:
            return next(answers) if name == f"GET {WEIGHTS}" else super().get(name, otherwise)

    raw.replies = Turns(raw.replies)  # type: ignore[assignment]
    assert (hub.pull("org/tiny") / "model.safetensors").read_bytes() == FILES["model.safetensors"]


@pytest.mark.parametrize("length", ["-5", "²", "1" * 30, "5e3", ""])
def test_size_that_is_no_number(raw: RawHub, length: str) -> None:
    raw.replies[f"HEAD {WEIGHTS}"] = [reply(b"", X_Linked_Size=length, X_Linked_Etag="a" * 64, Content_Length="0")]
    error = failure()
    assert error.code in ("not_a_hub", "checksum", "connection_cut")
    assert "cache" not in error.cause


def test_byte_now_and_then_is_no_answer(raw: RawHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_seconds", lambda limits: 0.3)
    head = b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 1000
    raw.replies[API] = (piece for letter in head for piece in (bytes([letter]), 0.05))
    error = failure()
    assert error.code == "hub_unreachable"
    assert raw.sent < len(head), "given up in the middle, of which each read was in time"


def test_file_that_comes_by_the_byte_is_asked_for_again_and_given_up(raw: RawHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "SLOW_SECONDS", 0.2)
    monkeypatch.setattr(download, "RETRY_SECONDS", (0.0, 0.0))
    head, body = reply(FILES["model.safetensors"]).split(b"\r\n\r\n")

    class Slow:
        def __iter__(self) -> Iterator[bytes | float]:
            yield head + b"\r\n\r\n"
            for letter in body:
                yield bytes([letter])
                yield 0.05

    raw.replies[f"GET {WEIGHTS}"] = Slow()
    notices: list[str] = []
    with pytest.raises(HubError) as caught:
        hub.pull("org/tiny", notice=notices.append)
    assert caught.value.code == "connection_cut"
    assert sum("less than 1.0 kB/s" in notice for notice in notices) == 2
    raw.files(FILES)
    assert (hub.pull("org/tiny") / "model.safetensors").read_bytes() == FILES["model.safetensors"], "it continues"


def test_download_has_an_end(raw: RawHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openllama_cli.models.hub.pull.WHOLE_SECONDS", -1.0)
    error = failure()
    assert error.code == "too_slow"
    assert "24 hours" in error.cause


def test_file_without_a_checksum_is_looked_into(raw: RawHub, tiny_model: Path) -> None:
    files = {file.name: file.read_bytes() for file in tiny_model.iterdir()}
    zeros = files | {"model.safetensors": bytes(len(files["model.safetensors"]))}
    for content, right in ((zeros, False), (files, True)):
        raw.files(content)
        weights = content["model.safetensors"]
        raw.replies[f"HEAD {WEIGHTS}"] = [reply(b"", ETag='"5d41402a-7"', Content_Length=str(len(weights)))]
        notices: list[str] = []
        if right:
            assert (hub.pull("org/tiny", notice=notices.append) / "model.safetensors").read_bytes() == weights
            assert notices[-1] == "the Hub gave no checksum of model.safetensors: only sizes and headers were checked"
        else:
            assert failure().code == "checksum"


def test_a_tokenizer_without_a_checksum_that_is_none_is_asked_for_again(raw: RawHub) -> None:
    path = WEIGHTS.replace("model.safetensors", "tokenizer.model")
    for content in (b"<html>sign in", FILES["tokenizer.model"]):
        headers = {"ETag": '"5d41402a-7"', "Content_Length": str(len(content))}
        raw.replies |= {f"HEAD {path}": [reply(**headers)], f"GET {path}": [reply(content, **headers)]}
        if content.startswith(b"<"):
            assert failure().code == "checksum"
    assert (hub.pull("org/tiny", weights=False) / "tokenizer.model").read_bytes() == FILES["tokenizer.model"]


WORDS = (
    "",
    "-1",
    "²",
    "0",
    "9" * 25,
    "null",
    "NaN",
    "http://[::1",
    "file:///x",
    "gzip",
    "chunked",
    "\x80",
    "a" * 64,
    "W/",
    "{",
)


def mutated(chance: random.Random, answer: bytes) -> bytes:
    """An answer with one to three things wrong."""
    for _ in range(chance.randint(1, 3)):
        head, separator, body = answer.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        place = chance.randrange(len(lines))
        match chance.randrange(8):
            case 0:
                at = chance.randrange(max(len(answer), 1))
                answer = answer[:at] + bytes([chance.randrange(256)]) + answer[at + 1 :]
            case 1:
                answer = answer[: chance.randrange(max(len(answer), 1))]
            case 2:  # another value of a header
                name = lines[place].partition(b":")[0]
                lines[place] = name + b": " + chance.choice(WORDS).encode("latin-1")
                answer = b"\r\n".join(lines) + separator + body
            case 3:  # a header more
                name = chance.choice(
                    ("Location", "Content-Encoding", "Transfer-Encoding", "Content-Range", "ETag", "X-Error-Code")
                )
                lines.append(f"{name}: {chance.choice(WORDS)}".encode("latin-1"))
                answer = b"\r\n".join(lines) + separator + body
            case 4:
                lines[0] = f"HTTP/1.1 {chance.choice((100, 204, 206, 301, 304, 401, 416, 429, 503, 999))} Well".encode()
                answer = b"\r\n".join(lines) + separator + body
            case 5:  # another value in the JSON
                words = body.split(b'"')
                words[chance.randrange(len(words))] = chance.choice(WORDS).encode("latin-1")
                answer = reply(b'"'.join(words))
            case 6:
                lines.pop(place)
                answer = b"\r\n".join(lines) + separator + body
            case 7:
                answer = answer + answer
    return answer


def try_mutations(raw: RawHub, count: int, seed: int) -> int:
    """Pull with one answer mutated, `count` times. Returns how many ended with the right files, or said not to be sure."""
    chance = random.Random(seed)
    pulled = 0
    for number in range(count):
        raw.files(FILES)
        name = chance.choice(sorted(raw.replies))
        (answer,) = raw.replies[name]
        assert isinstance(answer, bytes)
        raw.replies[name] = [mutated(chance, answer)]
        notices: list[str] = []
        with tempfile.TemporaryDirectory() as home, mock.patch.dict(os.environ, {"HF_HOME": home}):
            try:
                folder = hub.pull("org/tiny", notice=notices.append)
            except OlcError:
                continue
            except BaseException as problem:
                problem.add_note(f"mutation {number} of seed {seed}: {name} {raw.replies[name]!r}")
                raise
            pulled += 1
            if not any("no checksum" in notice for notice in notices):
                for file in folder.iterdir():
                    assert file.read_bytes() == FILES[file.name], f"mutation {number} of seed {seed}"
    return pulled


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for long."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 1)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 1)
    monkeypatch.setattr(download, "RETRY_SECONDS", (0.0,))


def test_mutated_answers_give_two_lines_or_the_right_files(raw: RawHub, hasty: None) -> None:
    assert 0 < try_mutations(raw, 120, seed=1) < 120


if __name__ == "__main__":
    with RawHub() as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", running.url)
        patch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 1)
        patch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 1)
        patch.setattr(download, "RETRY_SECONDS", (0.0,))
        number = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
        print(try_mutations(running, number, seed=int(time.time())), "of", number, "ended with a model")
