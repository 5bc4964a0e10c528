"""Rows over a completions server that misbehaves: each row ends once, with its result or an error of its own."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from openllama_cli.batch.input.rows import Row, RowError
from openllama_cli.batch.remote.attempts import Patience, wait_of
from openllama_cli.batch.remote.engine import RemoteRunner
from openllama_cli.batch.remote.server import Server, connect
from openllama_cli.errors import OlcError
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.openai_api.address import ServerAddress
from tests.support.batches import Kept
from tests.support.serve.completions import CompletionsServer, Handler, completed, slow, well_behaved

HASTY = Patience(connect=5, answer=20, first=0.01, most=0.02, attempts=3, give_up=5)


@pytest.fixture
def server() -> Iterator[CompletionsServer]:
    with CompletionsServer() as running:
        yield running


def row(index: int, prompt: str = "", **fields: Any) -> Row:
    return Row(index, f"row-{index}", prompt or f"prompt {index}", sampling=SamplingConfig(), **fields)


def run(server: CompletionsServer, *rows: Row, patience: Patience = HASTY, **more: Any) -> Kept:
    kept = Kept()
    found = more.pop("found", Server(f"{server.url}/v1", "base", {}))
    runner = RemoteRunner(found, kept.append, more.pop("concurrency", 4), patience=patience, **more)
    for _ in runner.run(iter(rows)):
        pass
    assert runner.progress.rows == len(kept.results)
    assert runner.progress.failed == len(kept.failed)
    return kept


def failing(first: int, act: Callable[[Handler], object]) -> Callable[[Handler, dict[str, Any], int], None]:
    """A server that does `act` for the first attempts of each row, and answers the next one."""

    def answer(handler: Handler, body: dict[str, Any], attempt: int) -> None:
        act(handler) if attempt <= first else well_behaved(handler, body, attempt)

    return answer


def fine(kept: Kept, count: int) -> bool:
    texts = {index: kept.document(index)["text"] for index in kept.results}
    return texts == {index: f" prompt {index}!" for index in range(count)}


def test_rows_are_completed_as_many_at_a_time_as_the_batch_size(server: CompletionsServer) -> None:
    server.answer = slow(0.03)
    kept = run(server, *map(row, range(40)), concurrency=7)
    assert fine(kept, 40)
    assert server.most_running == 7
    assert kept.document(3)["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert len(server.requests) == 40


@pytest.mark.parametrize(
    "act",
    [
        lambda handler: handler.reply(500, {"error": "boom"}),
        lambda handler: handler.reply(502, b"<html>Bad Gateway</html>"),
        lambda handler: handler.reply(429, {"error": {"message": "slow down"}}, Retry_After="0.01"),
        lambda handler: handler.reply(503, b"", Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"),
        lambda handler: handler.reply(200, b'{"choices": [{"te'),
        lambda handler: handler.reply(200, {"choices": []}),
        lambda handler: handler.reply(200, {"choices": [{"text": None}]}),
        lambda handler: handler.reply(200, b"[" * 100_000),
        lambda handler: handler.cut(),
        lambda handler: handler.cut(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{"),
        lambda handler: handler.cut(b"SSH-2.0-OpenSSH_9.2\r\n"),
    ],
    ids=["500", "502", "429", "503", "torn", "no choices", "no text", "deep", "cut", "cut in the answer", "not HTTP"],
)
def test_what_may_pass_is_tried_again(server: CompletionsServer, act: Callable[[Handler], object]) -> None:
    server.answer = failing(2, act)
    kept = run(server, *map(row, range(5)))
    assert fine(kept, 5)
    assert set(server.attempts.values()) == {3}


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (lambda handler: handler.reply(500, {"error": {"message": "boom"}}), "server_error"),
        (lambda handler: handler.reply(200, {"object": "text_completion"}), "server_answer"),
        (lambda handler: handler.cut(), "server_error"),
    ],
)
def test_a_row_that_always_fails_becomes_an_error_row(
    server: CompletionsServer, act: Callable[[Handler], object], code: str
) -> None:
    def answer(handler: Handler, body: dict[str, Any], attempt: int) -> None:
        act(handler) if body["prompt"] == "poison" else well_behaved(handler, body, attempt)

    server.answer = answer
    kept = run(server, row(0), row(1, "poison"), row(2))
    assert kept.codes == {0: None, 1: code, 2: None}
    assert server.attempts['"poison"'] == HASTY.attempts
    assert "3 attempts" in kept.document(1)["error"]["message"]


@pytest.mark.parametrize(
    ("status", "document", "code"),
    [
        (400, {"error": {"message": "This model's maximum context length is 8", "code": 400}}, "context_length_exceeded"),
        (400, {"object": "error", "message": "This model's maximum context length is 8 tokens"}, "context_length_exceeded"),
        (400, {"error": {"message": "bad", "code": "invalid_logprobs"}}, "invalid_logprobs"),
        (422, {"detail": [{"loc": ["body", "n"], "msg": "too many"}]}, "server_refused"),
        (413, b"<html>too large</html>", "server_refused"),
    ],
)
def test_a_row_that_is_refused_is_not_tried_again(server: CompletionsServer, status: int, document: Any, code: str) -> None:
    def answer(handler: Handler, body: dict[str, Any], attempt: int) -> None:
        handler.reply(status, document) if body["prompt"] == "bad" else well_behaved(handler, body, attempt)

    server.answer = answer
    kept = run(server, row(0), row(1, "bad"), row(2, openai=True))
    assert kept.codes == {0: None, 1: code, 2: None}
    assert server.attempts['"bad"'] == 1
    assert kept.document(1)["error"]["message"].startswith(f"{status}: ")
    assert kept.document(2)["response"]["body"]["choices"][0]["text"] == " prompt 2!"


def test_a_server_that_hangs_is_left_after_a_while(server: CompletionsServer) -> None:
    server.answer = failing(1, Handler.hang)
    assert fine(run(server, row(0), patience=replace(HASTY, answer=0.2)), 1)
    server.answer = failing(9, Handler.hang)
    assert run(server, row(1), patience=replace(HASTY, answer=0.1)).codes == {1: "server_timeout"}


def test_a_full_server_is_waited_for_however_often_it_says_so(server: CompletionsServer) -> None:
    server.answer = failing(8, lambda handler: handler.reply(429, {}))
    told: list[str] = []
    assert fine(run(server, row(0), notice=told.append), 1)
    assert [text for text in told if "waiting for the server" in text] == told
    assert len(told) == 1


def test_what_a_full_server_asks_of_one_row_holds_for_all(server: CompletionsServer) -> None:
    times: list[float] = []

    def answer(handler: Handler, body: dict[str, Any], attempt: int) -> None:
        times.append(time.monotonic())
        if len(times) == 1:
            handler.reply(429, {}, Retry_After="0.5")
        else:
            well_behaved(handler, body, attempt)

    server.answer = answer
    assert fine(run(server, *map(row, range(3)), concurrency=1), 3)
    assert times[1] - times[0] >= 0.5


def test_a_server_that_restarts_gets_the_rows_again() -> None:
    with CompletionsServer() as first:
        port = first.port
        first.answer = failing(9, Handler.hang)
        kept: list[Kept] = []
        thread = threading.Thread(
            target=lambda: kept.append(run(first, *map(row, range(3)), patience=replace(HASTY, give_up=60)))
        )
        thread.start()
        while len(first.requests) < 3:
            time.sleep(0.01)
    with CompletionsServer(port=port):
        thread.join(60)
    assert fine(kept[0], 3)


def test_a_server_that_stays_away_ends_the_run(server: CompletionsServer) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        gone = Server(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", "base", {})
        with pytest.raises(OlcError) as caught:
            run(server, row(0), found=gone, patience=replace(HASTY, give_up=0.1))
    assert caught.value.code == "server_unavailable"


@pytest.mark.parametrize(
    ("status", "code"), [(401, "server_key"), (403, "server_key"), (404, "server_refused"), (307, "server_refused")]
)
def test_what_no_row_can_be_answered_with_ends_the_run(server: CompletionsServer, status: int, code: str) -> None:
    server.answer = lambda handler, body, attempt: handler.reply(status, {"error": "no"}, Location="/elsewhere")
    with pytest.raises(OlcError) as caught:
        run(server, *map(row, range(20)))
    assert caught.value.code == code
    assert len(server.requests) <= 4


def test_a_stop_leaves_rows_that_wait_undone(server: CompletionsServer) -> None:
    stopped = threading.Event()

    def answer(handler: Handler, body: dict[str, Any], attempt: int) -> None:
        if body["prompt"] == "prompt 0":
            well_behaved(handler, body, attempt)
        else:
            stopped.set()
            handler.reply(503, {}, Retry_After="100")

    server.answer = answer
    kept = run(server, *map(row, range(9)), stopping=stopped.is_set, concurrency=2, patience=replace(HASTY, give_up=100))
    assert set(kept.results) <= {0}


def test_closing_the_iterator_ends_requests_at_once(server: CompletionsServer) -> None:
    server.answer = failing(9, Handler.hang)
    runner = RemoteRunner(Server(f"{server.url}/v1", "base", {}), Kept().append, 4, patience=HASTY)
    steps = runner.run(map(row, range(9)))
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert runner.progress.rows == 0


def test_requests_say_all_that_was_asked_for(server: CompletionsServer) -> None:
    asked = SamplingConfig(max_tokens=7, temperature=0.5, top_p=0.9, top_k=3, seed=11, stop=("a", "b"), logprobs=2)
    other = Row(1, "b", None, (5, 6), SamplingConfig(temperature=1.0, seed=4), own_seed=True)
    run(server, Row(5, "a", "x", sampling=asked, echo=True), other, concurrency=1, given=("min_p",))
    assert server.requests == [
        {
            **{"model": "base", "prompt": "x", "max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "top_k": 3, "min_p": 0.0},
            **{"seed": 16, "stop": ["a", "b"], "logprobs": 2, "echo": True},
        },
        {"model": "base", "prompt": [5, 6], "max_tokens": 64, "temperature": 1.0, "top_p": 1.0, "min_p": 0.0, "seed": 4},
    ]


def test_an_openai_line_goes_as_it_is_and_comes_back_as_it_is(server: CompletionsServer) -> None:
    body = {"model": "gpt-x", "prompt": "\ud800", "n": 2, "best_of": 4, "guided_regex": "a+", "stream": True}
    kept = run(server, row(0, openai=True, body=body))
    assert server.requests == [{"model": "base", "prompt": "\ud800", "n": 2, "best_of": 4, "guided_regex": "a+"}]
    answered = kept.document(0)["response"]
    assert answered["body"] == completed(server.requests[0])
    assert answered["status_code"] == 200
    assert kept.lines[0].count(b"\n") == 0


def test_fewer_choices_than_asked_for_are_no_answer(server: CompletionsServer) -> None:
    server.answer = lambda handler, body, attempt: handler.reply(200, completed(body | {"n": 1}))
    assert run(server, row(0, openai=True, body={"prompt": "x", "n": 2})).codes == {0: "server_answer"}


def test_rows_that_are_wrong_are_not_sent(server: CompletionsServer) -> None:
    kept = run(server, Row(0, "a", error=RowError("bad_option", "no")), row(1))
    assert kept.codes == {0: "bad_option", 1: None}
    assert len(server.requests) == 1


def test_numbers_that_json_does_not_have_are_null(server: CompletionsServer) -> None:
    data = b'{"choices": [{"text": "x", "logprobs": {"token_logprobs": [NaN, -Infinity, 1e999, -0.5]}}]}'
    server.answer = lambda handler, body, attempt: handler.reply(200, data)
    assert run(server, row(0)).document(0)["logprobs"] == {"token_logprobs": [None, None, None, -0.5]}


def test_olc_itself_ends_a_row_where_the_context_does(server: CompletionsServer) -> None:
    own = Server(f"{server.url}/v1", "base", {"olc": {"model": "demo"}})
    run(server, row(0, fixed_length=False), row(1), found=own, concurrency=1)
    assert [request.get("olc") for request in server.requests] == [
        {"fit": True},
        {"fit": False},
    ]


def address(server: CompletionsServer) -> ServerAddress:
    return ServerAddress.parse(server.url)


def test_the_only_model_is_the_one(server: CompletionsServer) -> None:
    server.models = [{"id": "m", "root": "/models/m", "created": 123, "owned_by": "vllm"}]
    found = connect(address(server), None)
    assert (found.model, dict(found.about), found.is_olc) == ("m", {"root": "/models/m"}, False)


def test_a_server_that_puts_bos_before_ids_is_another(server: CompletionsServer) -> None:
    """Rows that it began are not to be finished by one that takes ids as they are; how many run at a time is no matter."""
    server.models = [{"id": "m", "olc": {"dtype": "float32", "max_rows": 16, "always_bos": True}}]
    assert connect(address(server), None).about == {"olc": {"dtype": "float32", "always_bos": True}}


@pytest.mark.parametrize(
    ("models", "model", "code"),
    [
        ([], None, "model"),
        ([{"id": "a"}, {"id": "b"}], None, "model"),
        ([{"id": "a"}, {"id": "b"}], "c", "model"),
        (None, None, "model"),
        ([{"name": "a"}], None, "server_answer"),
    ],
)
def test_which_model_is_meant_has_to_be_clear(server: CompletionsServer, models: Any, model: str | None, code: str) -> None:
    server.models = models
    with pytest.raises(OlcError) as caught:
        connect(address(server), model)
    assert caught.value.code == code


def test_a_server_without_a_list_of_models_is_believed(server: CompletionsServer) -> None:
    server.models = None
    assert connect(address(server), "mine").model == "mine"


def test_a_server_that_loads_is_waited_for(server: CompletionsServer) -> None:
    server.loading = 3
    told: list[str] = []
    assert connect(address(server), None, patience=HASTY, notice=told.append).model == "base"
    assert len(told) == 1
    assert "Loading model" in told[0]


def test_retry_after_is_seconds_or_a_date() -> None:
    assert wait_of("3") == 3
    assert wait_of("1e9") == 300
    assert wait_of("-5") == 0
    assert wait_of("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert wait_of("nan") is None
    assert wait_of("soon") is None
    assert wait_of(None) is None
