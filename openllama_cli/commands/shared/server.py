"""`--server` and `--no-server`: which server answers a command, if one does."""

import contextlib
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

import click

from openllama_cli.commands.shared.model import find_model, tell_not_applied
from openllama_cli.errors import UsageError
from openllama_cli.models.loading.ranks import one_process_only, rank_info
from openllama_cli.models.spec import ModelFolder, ModelSpec
from openllama_cli.openai_api.address import ServerAddress
from openllama_cli.serve.local_socket import private, socket_folder

if TYPE_CHECKING:
    from openllama_cli.serve.client.find import FoundServer

Command = Callable[..., Any]
T = TypeVar("T")

server_option = click.option(
    "--server",
    metavar="URL",
    help="Let the completions server at URL answer (olc serve, vLLM, llama-server, …); -m is its name of the model.",
)


@dataclass(frozen=True)
class ServerChoice:
    """What the two options say. address: of the server that was named. allowed: whether one that runs here may answer."""

    address: ServerAddress | None
    allowed: bool

    def answer(
        self, spec: ModelSpec, ask: "Callable[[FoundServer], T]", folder: ModelFolder | None = None, *, able: bool = True
    ) -> tuple[T | None, ModelFolder | None]:
        """Which runs it: what the server that was named makes of a request, or one of this user's that serves what would be
        loaded here; None where it is to be done here. And the model, where it was looked for.

        ask: raises NotServedError for what a server does not do as it is asked. folder: the model, if it was found already.
        able: whether servers do it at all. Raises OlcError, for a server that was named also for what it does not do.
        """
        if self.address is not None:
            from openllama_cli.serve.client.find import named_server

            return ask(named_server(self.address, spec.model)), None
        folder = folder or find_model(spec)
        if able and self.allowed and rank_info() is None and private(socket_folder()):
            from openllama_cli.serve.client.completions import NotServedError
            from openllama_cli.serve.client.find import find_server

            found = find_server(folder, spec)
            if found is not None:
                with contextlib.suppress(NotServedError):
                    made = ask(found)
                    tell_not_applied(folder)
                    return made, folder
        return None, folder

    def refuse(self, flag: str | None) -> None:
        """Raise UsageError for an option that no server follows, if one was named. flag: None where there is no such option."""
        if flag is not None and self.address is not None:
            raise UsageError(f"{flag} cannot be combined with --server", f"leave out {flag}, or --server")


def server_options(function: Command) -> Command:
    """Add --server and --no-server; the command receives them as `server: ServerChoice`."""

    @server_option
    @click.option("--no-server", is_flag=True, help="Load the model here, even if a running `olc serve` has it.")
    @functools.wraps(function)
    def wrapper(*args: Any, server: str | None, no_server: bool, spec: ModelSpec, **values: Any) -> Any:
        if server is not None and no_server:
            raise UsageError("--server and --no-server cannot be combined", "leave one of them out")
        return function(*args, server=ServerChoice(parse_server(server, spec), not no_server), spec=spec, **values)

    return wrapper


def recorded(olc: Mapping[str, Any], command: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """{"record": …} of what a server's `olc` says, as the command's own; {} where it says none, as olc's did before.

    options: the command's own that no server is told.
    """
    record = olc.get("record")
    if not isinstance(record, dict) or not isinstance(record.get("options"), dict):
        return {}
    return {"record": {**record, "command": command, "options": {**record["options"], **options}}}


def parse_server(text: str | None, spec: ModelSpec) -> ServerAddress | None:
    """The value of --server. Raises UsageError, also for options that are not a server's to follow."""
    if text is None:
        return None
    address = ServerAddress.parse(text)
    one_process_only("--server")
    for option in fields(ModelSpec):
        value = getattr(spec, option.name)
        if option.name != "model" and value != option.default:
            name = "--adapter" if option.name == "adapters" else f"--{option.name}"
            shown = " ".join(value) if isinstance(value, tuple) else value
            flag = name + ("" if value is True else f" {shown}")
            raise UsageError(
                f"{flag} cannot be combined with --server, which has loaded its model already", f"leave out {name}"
            )
    return address
