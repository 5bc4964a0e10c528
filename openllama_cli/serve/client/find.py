"""Which server answers a command: one of this user's that serves what would be loaded here, or the one that was named."""

from dataclasses import dataclass
from typing import Any

from openllama_cli.errors import OlcError
from openllama_cli.models.spec import ModelFolder, ModelSpec
from openllama_cli.openai_api import answer
from openllama_cli.openai_api.address import ServerAddress
from openllama_cli.openai_api.models import choose_model, key_refused, listing, not_completions, unavailable
from openllama_cli.serve.client.connection import Connection, DroppedError
from openllama_cli.serve.local_socket import precision_name, socket_path


@dataclass(frozen=True)
class FoundServer:
    """A server that answered just now.

    model: its name there. own: whether it is the one that was found here and not named: what it cannot do is done here. olc:
    whether it is olc's.
    """

    connection: Connection
    model: str
    own: bool
    olc: bool


def find_server(folder: ModelFolder, spec: ModelSpec) -> FoundServer | None:
    """The server of this user that loaded `folder` with these options and is ready; None where there is none."""
    try:
        precision = precision_name(spec.dtype, spec.quantize)
        path = socket_path(folder.path, folder.revision, precision, spec.device, folder.adapters)
    except OSError:
        return None
    connection = Connection.unix(path)
    if connection is None:
        return None
    try:
        # One that hangs, or still loads, is none.
        status, _ = connection.get("/health")
    except DroppedError:
        status = 0
    if status == 200:
        return FoundServer(connection, folder.name, own=True, olc=True)
    connection.close()
    return None


def named_server(address: ServerAddress, model: str | None) -> FoundServer:
    """The server at an address. model: its name there; None is the only one that it has.

    Raises OlcError where none answers, the key is refused, or the model is not there; UsageError where it has several and none
    was named.
    """
    try:
        connection = Connection.tcp(address)
    except DroppedError as problem:
        raise unavailable(address.url, str(problem)) from problem
    try:
        models = _models(connection, address.url)
        name = choose_model(address.url, models, model)
    except BaseException:
        connection.close()
        raise
    return FoundServer(connection, name, own=False, olc="olc" in (models or {}).get(name, {}))


def _models(connection: Connection, url: str) -> dict[str, dict[str, Any]] | None:
    """The server's models by their names; None for a server that does not list them."""
    try:
        status, data = connection.get(f"{connection.prefix}/models")
    except DroppedError as problem:
        raise unavailable(url, str(problem)) from problem
    if status in (401, 403):
        raise key_refused(url, answer.refusal(data)[1])
    if status == 503:
        raise OlcError(f"{url} is not ready: {answer.refusal(data)[1]}", "try again in a moment", code="loading")
    try:
        return listing(data) if status == 200 else None
    except answer.BadAnswerError as problem:
        raise not_completions(url, str(problem)) from problem
