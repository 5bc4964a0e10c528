"""Who is not let in, what is not taken, what is not told."""

import asyncio
import contextlib
import json
import socket
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from openllama_cli.errors import OlcError, UsageError
from openllama_cli.serve import listen, local_socket
from openllama_cli.serve.guard import Access, host_name
from openllama_cli.serve.listen import Protocol
from openllama_cli.serve.responses import MOST_BYTES
from openllama_cli.serve.run import Settings, check_settings, read_key
from tests.support.serve.servers import Served, running

KEY = "correct horse battery"
JSON = {"content-type": "application/json"}


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short path, as Unix sockets need it, in place of /run/user/UID."""
    with tempfile.TemporaryDirectory(prefix="olc-") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


@pytest.fixture(scope="module")
def guarded(tiny_model: Path) -> Iterator[Served]:
    """A server with a key, and one other origin."""
    access = Access(key=KEY, origins=("https://pages.example",))
    with running(tiny_model, access=access) as server:
        yield server


def get(served: Served, path: str = "/v1/models", **headers: str) -> httpx.Response:
    return served.client.get(path, headers=headers)


@pytest.mark.parametrize(
    ("host", "answered"),
    [
        ("localhost", True),
        ("LOCALHOST:99", True),
        ("127.0.0.1:8080", True),
        ("127.8.9.1", True),
        ("[::1]:80", True),
        ("evil.example", False),
        ("evil.example:8080", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("192.168.1.7", False),
        ("0.0.0.0:8080", False),
        ("", False),
        ("a@localhost", False),
    ],
)
def test_a_host_that_is_not_this_server(served: Served, host: str, answered: bool) -> None:
    """A name that somebody pointed at 127.0.0.1 (DNS rebinding)."""
    answer = get(served, host=host)
    assert answer.status_code == (200 if answered else 403)
    assert answered or answer.json()["error"]["code"] == "forbidden_host"


def test_hosts_of_a_server_that_others_reach() -> None:
    open_ = Access("0.0.0.0", KEY, ("https://pages.example:8443",))

    def refused(host: str) -> bool:
        scope = {"type": "http", "method": "GET", "path": "/health", "server": ("127.0.0.1", 80)}
        try:
            open_.check({**scope, "headers": [(b"host", host.encode())]})
        except Exception:
            return True
        return False

    names = ["192.168.1.7:8080", "[fe80::1]:80", socket.gethostname(), "localhost", "pages.example", "evil.example"]
    assert [name for name in names if refused(name)] == ["evil.example"]
    assert host_name("[::1]:80") == "::1"


@pytest.mark.parametrize(
    ("origin", "answered"),
    [("https://evil.example", False), ("null", False), ("file://", False), ("http://localhost:1", False)],
)
def test_pages_of_other_origins(served: Served, origin: str, answered: bool) -> None:
    answer = get(served, origin=origin)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden_origin")
    assert "access-control-allow-origin" not in answer.headers


def test_its_own_page_and_an_allowed_one(served: Served, guarded: Served) -> None:
    assert get(served, origin=served.url).status_code == 200
    allowed = {"origin": "https://pages.example", "authorization": f"Bearer {KEY}"}
    assert get(guarded, **allowed).headers["access-control-allow-origin"] == "https://pages.example"
    preflight = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    answer = guarded.client.options("/v1/completions", headers={"origin": "https://pages.example", **preflight})
    assert answer.status_code == 200
    assert "authorization" in answer.headers["access-control-allow-headers"].lower()
    refused = guarded.client.options("/v1/completions", headers={"origin": "https://evil.example", **preflight})
    assert refused.status_code == 403
    assert "access-control-allow-origin" not in refused.headers


def test_an_allowed_page_can_read_why_it_is_refused(guarded: Served) -> None:
    page = {"origin": "https://pages.example", "content-type": "text/plain"}
    key = {"authorization": f"Bearer {KEY}"}
    for headers, status in ((page, 401), (page | key, 415), (page | key | {"host": "evil.example"}, 403)):
        answer = guarded.client.post("/v1/completions", content=b"{}", headers=headers)
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == "https://pages.example"
        assert answer.headers["vary"] == "Origin"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""])
def test_the_simple_post_of_any_web_page(served: Served, kind: str) -> None:
    """What a page may send to another server without asking first."""
    answer = served.client.post("/v1/completions", content=b'{"prompt": "a"}', headers={"content-type": kind})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", KEY])
def test_a_wrong_key(guarded: Served, given: str) -> None:
    answer = get(guarded, **({"authorization": given} if given else {}))
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert guarded.client.post("/v1/completions", json={"prompt": "a"}).status_code == 401


def test_the_key_is_compared_in_constant_time(guarded: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[Any] = []
    monkeypatch.setattr("hmac.compare_digest", lambda *pair: compared.append(pair) or pair[0] == pair[1])
    assert get(guarded, authorization=f"bearer {KEY}").status_code == 200
    assert compared == [(KEY.encode(), KEY.encode())]
    assert get(guarded, "/health").status_code == 200, "health needs none"


def test_what_others_reach_needs_a_key() -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        with pytest.raises(UsageError, match="lets other computers in") as refused:
            check_settings(Settings(host))
        assert refused.value.code == "key_required"
        check_settings(Settings(host, key=KEY))
    for host in ("127.0.0.1", "localhost", "::1"):
        check_settings(Settings(host))
    for origin in ("pages.example", "https://pages.example/", "*", "ftp://x"):
        with pytest.raises(UsageError, match="allow-origin"):
            check_settings(Settings(origins=(origin,)))


@pytest.mark.parametrize("content", [b"", b"short\n", b"two words here", b"\xff\xfe\xfd123456"])
def test_a_key_file_without_a_key(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(UsageError) as refused:
        read_key(str(tmp_path / "key"))
    assert refused.value.code == "key_file"
    assert "two words" not in str(refused.value)


def test_a_key_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("0123456789\n")
    assert read_key(str(tmp_path / "key")) == "0123456789"
    with pytest.raises(UsageError, match="No such file"):
        read_key(str(tmp_path / "other"))


def test_neither_prompts_nor_keys_are_in_the_log(guarded: Served) -> None:
    """Of requests that are answered, refused and wrong, whatever is in them."""
    secret, key = "xyzzy-secret", {"authorization": f"Bearer {KEY}"}
    for body in ({"prompt": secret}, {"prompt": [secret]}, {"prompt": secret, "top_p": secret}, {"prompt": {secret: 1}}):
        guarded.client.post("/v1/completions", json={**body, "stream": True}, headers=key)
        guarded.client.post("/v1/completions", json=body)
    guarded.client.get(f"/v1/models?key={secret}", headers=key)
    told = " ".join([*guarded.log, *map(repr, guarded.logged())])
    assert len(guarded.logged()) >= 9
    assert secret not in told
    assert KEY not in told


def test_every_answer_says_what_a_browser_may_do_with_it(served: Served) -> None:
    for answer in (get(served), get(served, host="evil.example"), get(served, "/nowhere")):
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_a_path_that_leaves_the_folder_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: Served) -> None:
    from openllama_cli.serve import app

    page = tmp_path / "page"
    page.mkdir()
    (page / "index.html").write_text("<p>page")
    (tmp_path / "secret.txt").write_text("secret")
    (page / "link.txt").symlink_to(tmp_path / "secret.txt")
    monkeypatch.setattr(app, "PAGE", page)
    application = app.make_app(app.Server(served.engine), Access(key=KEY))

    async def asked(path: str) -> tuple[int, bytes]:
        sent: list[Any] = []

        async def receive() -> Any:
            return await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        raw = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": ""}
        scope = {**raw, "headers": [(b"host", b"localhost")], "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 9)}
        await application({**scope, "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http"}, receive, send)
        return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])

    assert asyncio.run(asked("/")) == (200, b"<p>page"), "the page itself needs no key"
    away = ["/../secret.txt", "/x/../../secret.txt", "//secret.txt", "/..%2fsecret.txt", "/link.txt", f"/{tmp_path}/secret.txt"]
    for path in away:
        status, body = asyncio.run(asked(path))
        assert status in (401, 404), path
        assert b"secret" not in body.replace(path.encode(), b"")


def raw(served: Served) -> socket.socket:
    host, port = served.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def answered(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def test_a_body_that_is_too_large(served: Served) -> None:
    """Said before it is read where its length is, and where it is not as soon as it is too long."""
    with raw(served) as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % (MOST_BYTES + 1))
        answer = answered(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"request_too_large" in answer
    with raw(served) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        block = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
        try:
            for _ in range(2 + MOST_BYTES // (1 << 20)):
                connection.sendall(block)
        except OSError:
            pass
        assert b" 413 " in answered(connection)[:20]
    assert served.complete(prompt="a")["choices"]


def test_a_body_that_comes_too_slowly(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    from openllama_cli.serve import app

    real = app.read_json
    monkeypatch.setattr(app, "read_json", lambda request: real(request, seconds=0.2))
    with raw(served) as connection:
        connection.sendall(HEAD + b'Content-Length: 50\r\n\r\n{"prompt": ')
        answer = answered(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in answer


def test_headers_that_come_too_slowly_or_never(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Protocol, "header_seconds", 0.2)
    for sent in (b"", b"GET /health HTTP/1.1\r\nHost: loc"):
        with raw(served) as connection:
            connection.sendall(sent)
            assert answered(connection).startswith(b"HTTP/1.1 408 ")
    with raw(served) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"GET /hea")
        assert b"HTTP/1.1 408 " in answered(connection)


def test_a_flood_of_headers(served: Served) -> None:
    with raw(served) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
        try:
            for number in range(200_000):
                connection.sendall(b"X-%d: y\r\n" % number)
        except OSError:
            pass
        answer = answered(connection)
    assert not answer or (answer.startswith(b"HTTP/1.1 400 ") and json.loads(answer.partition(b"\r\n\r\n")[2]))
    assert served.client.get("/health").status_code == 200


def test_connections_that_ask_for_nothing_make_room_for_those_that_do(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, the server keeps a bounded number; the longest idle one goes first."""
    monkeypatch.setattr(Protocol, "most", 20)
    idle = [raw(served) for _ in range(60)]
    try:
        assert httpx.get(f"{served.url}/health").status_code == 200
        closed = 0
        for connection in idle:
            connection.settimeout(0.01)
            try:
                closed += connection.recv(1) == b""
            except ConnectionResetError:
                closed += 1
            except TimeoutError:
                pass
        assert closed >= 40
    finally:
        for connection in idle:
            connection.close()


def test_an_answer_that_nobody_reads_keeps_no_connection(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    lost, made, real = threading.Event(), Protocol.connection_made, Protocol.connection_lost

    def little(protocol: Protocol, transport: asyncio.Transport) -> None:
        """The system itself keeps megabytes of what is sent, unless it is told otherwise."""
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        made(protocol, transport)

    monkeypatch.setattr(Protocol, "unread_seconds", 0.2)
    monkeypatch.setattr(Protocol, "connection_made", little)
    with raw(served) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        name = connection.getsockname()

        def watched(protocol: Protocol, exc: Exception | None) -> None:
            real(protocol, exc)
            if protocol.client == name:
                lost.set()

        monkeypatch.setattr(Protocol, "connection_lost", watched)
        body = json.dumps({"prompt": "a " * 100_000, "pieces": True}).encode()
        request = HEAD.replace(b"/v1/completions", b"/tokenize") + b"Content-Length: %d\r\n\r\n" % len(body)
        connection.sendall(request + body)
        assert lost.wait(120)
        head, _, rest = answered(connection).partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split()[0])
        assert 0 < len(rest) < length


def test_nonsense_in_place_of_http(served: Served) -> None:
    for sent in (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET /health HTTP/1.1\r\n\r\n"):
        with raw(served) as connection:
            connection.sendall(sent)
            assert b"invalid_http" in answered(connection)


def test_the_socket_is_the_users_own(runtime: Path, tiny_model: Path) -> None:
    path = local_socket.socket_path(tiny_model, None, "float32", "cpu")
    with listen.local_listener(path, pytest.fail) as listener:
        assert listener is not None
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert local_socket.alive(path)
        told: list[str] = []
        with listen.local_listener(path, told.append) as second:
            assert second is None
        assert "another server" in told[0]
    assert not path.exists()
    # One that is too busy to accept is not dead: its socket stays.
    with socket.socket(socket.AF_UNIX) as busy, contextlib.ExitStack() as waiting:
        busy.bind(str(path))
        busy.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                client = waiting.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(str(path))
        assert local_socket.alive(path)
    path.unlink()
    # What a server that was killed left behind hinders nobody.
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with listen.local_listener(path, pytest.fail) as listener:
        assert listener is not None


def test_the_socket_is_there_only_once_it_listens(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that is refused takes the server for dead and removes its socket."""
    path = local_socket.socket_folder() / "name.sock"
    there: list[bool] = []

    class Watched(socket.socket):
        def listen(self, backlog: int = 0, /) -> None:
            there.append(path.exists())
            super().listen(backlog)

    monkeypatch.setattr(socket, "socket", Watched)
    with listen.local_listener(path, pytest.fail):
        assert there == [False]
        assert local_socket.alive(path)
        assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert not any(path.parent.iterdir())


@pytest.mark.parametrize("how", ["open", "link", "file"])
def test_a_folder_that_others_can_enter_is_not_used(runtime: Path, tiny_model: Path, how: str) -> None:
    folder = local_socket.socket_folder()
    if how == "open":
        folder.mkdir()
        folder.chmod(0o755)
    elif how == "link":
        (runtime / "other").mkdir(mode=0o700)
        folder.symlink_to(runtime / "other")
    else:
        folder.write_text("")
    told: list[str] = []
    with listen.local_listener(local_socket.socket_path(tiny_model, None, "float32", "cpu"), told.append) as listener:
        assert listener is None
    assert "not this user's alone" in told[0]


def test_names_of_sockets(tmp_path: Path, tiny_model: Path, tmp_model: Path) -> None:
    def name(folder: Path = tmp_model, revision: str | None = None, precision: str = "auto", device: str = "auto") -> str:
        return local_socket.socket_path(folder, revision, precision, device).name

    (tmp_path / "linked").symlink_to(tmp_model)
    assert name() == name(tmp_path / "linked"), "one folder, one server"
    different = {name(), name(tiny_model), name(revision="abc"), name(precision="int8"), name(device="cpu")}
    assert len(different) == 5
    before = name()
    with (tmp_model / "config.json").open("a") as file:
        file.write(" ")
    assert name() != before, "a model that changed is another one"
    for file in (tmp_path / "a-00001-of-00002.gguf", tmp_path / "a-00002-of-00002.gguf"):
        before = name(tmp_path / "a-00001-of-00002.gguf") if file.name.startswith("a-00002") else ""
        file.write_bytes(b"GGUF")
        assert name(tmp_path / "a-00001-of-00002.gguf") != before, "a part of a split file that changed is another model"
    assert local_socket.precision_name("auto", "int8") != local_socket.precision_name("float32", "int8")


def test_a_port_in_use_and_an_address_that_is_not_here() -> None:
    with listen.bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(OlcError) as refused:
            listen.bind("127.0.0.1", port)
    assert refused.value.code == "port_in_use"
    assert str(port + 1) in refused.value.remedy
    for host in ("192.0.2.1", "no such host"):
        with pytest.raises(OlcError) as refused:
            listen.bind(host, 0)
        assert refused.value.code == "host"
