"""The way to a completions server."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from openllama_cli.batch.remote.server import connect
from openllama_cli.errors import UsageError
from openllama_cli.openai_api.address import ServerAddress


def test_a_server_elsewhere_is_reached_through_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"object": "list", "data": [{"id": "base", "object": "model"}]}')

        def log_message(self, *_: object) -> None:
            pass

    address = ServerAddress.parse("http://models.example:8000")
    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.01,))
        thread.start()
        for name in ("ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy", "http_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", f"127.0.0.1:{proxy.server_port}")
        assert connect(address, None).model == "base"
        proxy.shutdown()
        thread.join()
    assert asked == ["http://models.example:8000/v1/models"]
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
    with pytest.raises(UsageError, match="not an HTTP one: socks5"):
        connect(address, None)
