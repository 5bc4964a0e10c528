"""The routes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from openllama_cli.errors import OlcError
from openllama_cli.openai_api.request import RECORD
from openllama_cli.serve.engine import Engine
from openllama_cli.serve.errors import ApiError, bad, of_olc
from openllama_cli.serve.guard import ENTRY, Access, Entry, Guard
from openllama_cli.serve.metrics import Metrics
from openllama_cli.serve.request import CompletionRequest, read_request, shown
from openllama_cli.serve.responses import Json, dump, error_response, read_json
from openllama_cli.serve.scheduler import Job, Steps
from openllama_cli.serve.tokens import detokenize, tokenize, tokenizer_info

if TYPE_CHECKING:
    from openllama_cli.generation.text.stream import TextStep
    from openllama_cli.serve.answer import Answer

PAGE = Path(__file__).parent / "page"
# Scripts, styles and connections of this server alone.
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    # After an update no module of the older page is mixed with the new ones: each is asked for again (and is mostly a 304).
    "cache-control": "no-cache",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
# A stream says so much that it lives, where its row waits for its turn.
_ALIVE_SECONDS = 15.0
# Longer requests are read, and answered, in another thread, while the others go on.
_LONG = 20_000


@dataclass
class Server:
    """What the routes share. log: told what people should know."""

    engine: Engine
    always_bos: bool = False
    log: Callable[[str], None] = lambda text: None
    metrics: Metrics = field(default_factory=Metrics)
    _hinted: bool = False

    def hint_bos(self, asked: CompletionRequest) -> None:
        """Say once that prompts of ids came without the BOS that the model was trained with."""
        if asked.no_bos and not self._hinted:
            self._hinted = True
            self.log(
                "hint: prompts of token ids came without BOS, which this model was trained with, so their probabilities are "
                "off; `olc serve --always-bos` puts it in front (lm-evaluation-harness needs that)"
            )


def make_app(server: Server, access: Access | None = None, *, done: Callable[[Entry], None] = lambda entry: None) -> ASGIApp:
    """The application. done: called with every request's log entry."""
    routes: list[Any] = [
        Route("/v1/completions", _endpoint(server, completions), methods=["POST"]),
        Route("/v1/models", _endpoint(server, models), methods=["GET"]),
        Route("/v1/models/{model:path}", _endpoint(server, one_model), methods=["GET"]),
        Route("/tokenize", _endpoint(server, _tokenize), methods=["POST"]),
        Route("/detokenize", _endpoint(server, _detokenize), methods=["POST"]),
        Route("/tokenizer_info", _endpoint(server, _tokenizer_info), methods=["GET"]),
        Route("/health", _endpoint(server, health), methods=["GET"]),
        Route("/metrics", _endpoint(server, metrics), methods=["GET"]),
        Route("/v1/chat/completions", _endpoint(server, _chat), methods=["POST"]),
    ]
    access = access or Access()
    if PAGE.is_dir():
        files = {"/", *(f"/{file.relative_to(PAGE).as_posix()}" for file in PAGE.rglob("*") if file.is_file())}
        page = StaticFiles(directory=PAGE, html=True)
        # A mount at "/" would also answer the wrong methods of the routes above.
        routes += [Route(path, page) for path in sorted(files)]
        access = Access(access.host, access.key, access.origins, access.public | files)
    cors: Any = {"allow_methods": ["GET", "POST"], "allow_headers": ["*"]}
    origins = [Middleware(CORSMiddleware, allow_origins=list(access.origins), **cors)] if access.origins else []
    handlers: Any = {HTTPException: _http_error, ApiError: _api_error, OlcError: _olc_error, Exception: _bug}
    app = Starlette(routes=routes, middleware=origins, exception_handlers=handlers)

    def finished(entry: Entry) -> None:
        server.metrics.count(entry)
        done(entry)

    return Guard(app, access, HEADERS, finished)


def _endpoint(server: Server, handler: Callable[[Server, Request], Any]) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        response: Response = await handler(server, request)
        return response

    return endpoint


async def completions(server: Server, request: Request) -> Response:
    """POST /v1/completions."""
    body = await read_json(request)
    recorded = _wants_record(request)
    model, facts = server.engine.ready()
    from openllama_cli.serve.answer import Answer

    def read() -> CompletionRequest:
        return read_request(body, model.tokenizer, facts, always_bos=server.always_bos)

    long = int(request.headers.get("content-length", _LONG)) >= _LONG or bool(body.get("logprobs") or body.get("choices"))
    asked = await asyncio.to_thread(read) if long else read()
    server.hint_bos(asked)
    answer = Answer(asked, model.tokenizer, facts, recorded=recorded)
    steps = Steps()

    def deliver(step: "TextStep") -> None:
        answer.time(step)
        steps.put(step)

    job = Job(asked.rows(), deliver, answer.begin)
    entry: Entry = request.scope[ENTRY]
    entry.prompt_tokens = answer.prompt_tokens
    server.engine.scheduler.submit(job)

    def ended() -> None:
        entry.completion_tokens = answer.completion_tokens
        server.engine.scheduler.cancel(job)

    if asked.stream:
        return _Events(_stream(steps, answer, entry), ended)
    try:
        await _until_gone(request, _collect(steps, answer))
    finally:
        ended()
    # A thousand log-probabilities take long to write.
    return await asyncio.to_thread(lambda: Json(answer.document())) if long else Json(answer.document())


def _wants_record(request: Request) -> bool:
    value = request.headers.get(RECORD, "0").strip()
    if value not in ("0", "1"):
        raise bad(f"the header {RECORD} is {shown(value)}; send 1 for a record of the answer, or leave it out", RECORD)
    return value == "1"


async def _collect(steps: Steps, answer: "Answer") -> None:
    async for batch in steps.batches(_ALIVE_SECONDS):
        for step in batch:
            answer.add(step)
            if step.prefilled:
                await asyncio.sleep(0)  # A long prompt's tokens took a while; others have their turn.
        if answer.finished:
            return


async def _until_gone(request: Request, work: Any) -> None:
    """Wait for work; ends it with ApiError when the client leaves."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise ApiError(499, "the client left", "client_left")
        tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)


class _Events(StreamingResponse):
    """Server-sent events. ended: called whatever ends them, also a client that leaves before the first."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[str], ended: Callable[[], None]) -> None:
        super().__init__(events, headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


async def _stream(steps: Steps, answer: "Answer", entry: Entry) -> AsyncIterator[str]:
    try:
        async for batch in steps.batches(_ALIVE_SECONDS):
            if not batch:
                yield ": waiting\n\n"
            for text in _events(answer, batch):
                yield text
            if answer.finished:
                yield "data: [DONE]\n\n"
                return
    except OlcError as error:
        entry.code = error.code
        yield f"data: {dump(of_olc(error).body())}\n\n"


def _events(answer: "Answer", batch: list[Any]) -> Iterator[str]:
    """One chunk for each row that has news, in one text."""
    from openllama_cli.serve.answer import Piece

    news: dict[int, Piece] = {}
    for step in batch:
        news.setdefault(step.row, Piece()).join(answer.add(step))
    pieces = [(row, piece) for row, piece in news.items() if piece]
    text = "".join(f"data: {dump(chunk)}\n\n" for chunk in answer.chunks(pieces))
    if text:
        yield text


async def models(server: Server, request: Request) -> Response:
    """GET /v1/models."""
    return Json({"object": "list", "data": [_model(server)]})


async def one_model(server: Server, request: Request) -> Response:
    """GET /v1/models/NAME."""
    model = _model(server)
    if request.path_params["model"] != model["id"]:
        raise ApiError(404, f"this server has one model, {model['id']}", "model_not_found", param="model")
    return Json(model)


def _model(server: Server) -> dict[str, Any]:
    model, facts = server.engine.ready()
    return {
        "id": facts.name,
        "object": "model",
        "created": int(server.engine.started),
        "owned_by": "olc",
        "max_model_len": facts.context,
        "olc": {
            **facts.description,
            "context": facts.context,
            "bos_id": model.tokenizer.bos_id,
            "eos_ids": sorted(model.tokenizer.eos_ids),
            "max_rows": facts.max_rows,
            "always_bos": server.always_bos,
            "machine": facts.surroundings["machine"],
        },
    }


async def _tokenize(server: Server, request: Request) -> Response:
    body = await read_json(request)
    model, facts = server.engine.ready()
    return Json(await asyncio.to_thread(tokenize, body, model.tokenizer, facts.context))


async def _detokenize(server: Server, request: Request) -> Response:
    body = await read_json(request)
    model, _ = server.engine.ready()
    return Json(await asyncio.to_thread(detokenize, body, model.tokenizer))


async def _tokenizer_info(server: Server, request: Request) -> Response:
    model, facts = server.engine.ready()
    return Json(tokenizer_info(model.tokenizer, facts.context))


async def health(server: Server, request: Request) -> Response:
    """GET /health: 200 once the model answers."""
    server.engine.ready()
    return Json({"status": "ok"})


async def metrics(server: Server, request: Request) -> Response:
    """GET /metrics, as Prometheus reads them."""
    return Response(server.metrics.text(server.engine), media_type="text/plain; version=0.0.4")


async def _chat(server: Server, request: Request) -> Response:
    message = "a base model completes text and has no chat; send a prompt to /v1/completions"
    raise ApiError(404, message, "unsupported_endpoint")


async def _http_error(request: Request, error: HTTPException) -> Response:
    path = request.url.path[:100]
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        api = ApiError(405, f"{request.method} is not for {path}; send {allowed}", "method_not_allowed")
        api.headers["allow"] = allowed
    elif error.status_code == 404:
        api = ApiError(404, f"there is no {path}; completions are at /v1/completions", "not_found")
    else:
        api = ApiError(error.status_code, str(error.detail), "http")
    return await _api_error(request, api)


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    request.scope[ENTRY].code = error.code
    return error_response(error)


async def _olc_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, OlcError)
    return await _api_error(request, of_olc(error))


async def _bug(request: Request, error: Exception) -> Response:
    return await _api_error(request, ApiError(500, "the server failed; its log has the reason", "internal_error"))
