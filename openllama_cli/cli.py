"""The `olc` command: a table of commands, each imported only when it is chosen, and how errors are printed."""

import atexit
import errno
import gc
import importlib
import os
import signal
import sys
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from openllama_cli.errors import OlcError, Terminated
from openllama_cli.version import __version__

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# name → one line of help. The command itself is `command` in the module of the same name under `commands/`.
COMMANDS = {
    "complete": "Stream a completion of one prompt.",
    "generate": "Complete several prompts with the decode loop exposed: logprobs, check, trace.",
    "batch": "Complete a file of prompts: crash-safe, resumable, every row exactly once.",
    "serve": "Keep a model loaded: OpenAI's completions API, a playground page, instant olc complete.",
    "score": "Show how likely a model finds a text: surprisal per token and word, perplexity.",
    "diff": "Compare two outputs row by row: where they part, by which margin, and why.",
    "replay": "Make a result again from its own record, and compare it token by token.",
    "schema": "Print the JSON Schema of a JSON output.",
    "bench": "Measure load time, speed and memory, in fresh processes.",
    "tokenize": "Show the token ids and pieces of a text.",
    "models": "List, download, inspect, convert and remove models.",
    "devices": "Show what this machine can run, what is wrong with it, and how to fix it.",
    "explain": "Explain an error message or a log, and how to fix it.",
    "sgd": "Train a network on handwritten digits by stochastic gradient descent, from scratch.",
    "annotate": "Annotate a text with spaCy: tokens, lemmas, entities, dependencies, vectors.",
}


# What people type, by the habits of other tools → what it is here.
ELSEWHERE = {
    **dict.fromkeys(("pull", "list", "info", "convert", "default", "rm"), "models {}"),
    **dict.fromkeys(("ls", "ps", "models-list"), "models list"),
    **dict.fromkeys(("download", "get", "fetch", "install"), "models pull"),
    **dict.fromkeys(("remove", "delete", "uninstall"), "models rm"),
    **dict.fromkeys(("show", "inspect"), "models info"),
    **dict.fromkeys(("run", "prompt", "ask", "predict"), "complete"),
    **dict.fromkeys(("benchmark", "perf"), "bench"),
    **dict.fromkeys(("perplexity", "surprisal", "loglikelihood", "ppl"), "score"),
    **dict.fromkeys(("encode", "tokens", "tokenise"), "tokenize"),
    **dict.fromkeys(("doctor", "gpu", "gpus"), "devices"),
    **dict.fromkeys(("compare", "cmp"), "diff"),
}
# Commands whose one argument is a text, which a shell splits if it has no quotes.
TEXTS = ("complete", "score", "tokenize", "annotate", "explain")


# What writing to a stdout says that is full, or that was opened for reading.
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EBADF)


class ClosedPipe(Exception):  # noqa: N818, it is not an error
    """The reader of stdout has gone. click would turn the BrokenPipeError into exit code 1 before we see it."""


def _write_error(error: OSError) -> Exception:
    """What a failed write to stdout means; any other OSError as it is (those of files have a file name)."""
    if isinstance(error, BrokenPipeError):
        return ClosedPipe()
    if error.errno in _UNWRITABLE and error.filename is None:
        from openllama_cli.terminal.streams import unwritable

        return unwritable(error)
    return error


class CommandTable(click.Group):
    """A group that imports a command only to run it or to show its help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"openllama_cli.commands.{cmd_name}").command
        _add_debug(command)
        return command

    def make_context(self, *args: Any, **rest: Any) -> click.Context:
        try:
            return super().make_context(*args, **rest)  # --help and --version write here
        except OSError as error:
            raise _write_error(error) from error

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)  # and the help of the commands here
        except OSError as error:
            raise _write_error(error) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # The default would import every command for its short help.
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        from click.shell_completion import CompletionItem

        # The default would import every command that matches.
        names = [CompletionItem(name, help=text) for name, text in COMMANDS.items() if name.startswith(incomplete)]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        # Not while a shell completes: there is nobody to read the error.
        if args and args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            from openllama_cli.terminal.streams import one_line

            raise click.UsageError(f"No such command {one_line(args[0])!r}.{_suggestion(args[0])}", ctx)
        return super().resolve_command(ctx, args)


def _suggestion(name: str) -> str:
    from difflib import get_close_matches

    close = [ELSEWHERE[name].format(name)] if name in ELSEWHERE else get_close_matches(name, COMMANDS, n=1)
    if close:
        return f" Did you mean `olc {close[0]}`?"
    return ' To complete a prompt: olc complete "…"' if " " in name else ""


def _add_debug(command: click.Command) -> None:
    """Add --debug to a command and its subcommands, so that it works wherever it is typed."""
    if not any(parameter.name == "debug" for parameter in command.params):
        option = click.Option(["--debug"], is_flag=True, expose_value=False, callback=_remember_debug, help="Show tracebacks.")
        command.params.append(option)
    if isinstance(command, click.Group):
        for subcommand in command.commands.values():
            _add_debug(subcommand)


def _remember_debug(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        ctx.find_root().obj["debug"] = True


@click.group(
    cls=CommandTable,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog='Example: olc complete "Q: What is the largest animal?"',
)
@click.version_option(__version__, prog_name="olc", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, expose_value=False, callback=_remember_debug, help="Show tracebacks.")
def olc() -> None:
    """Complete text with OpenLLaMA models, and any other Llama checkpoint, from a shell."""


def main(args: list[str] | None = None) -> NoReturn:
    """Run `olc` and exit: 0 done, 1 failed, 2 wrong usage, 3 a batch with failed rows, 130 Ctrl-C, 143 SIGTERM."""
    signal.signal(signal.SIGTERM, _terminate)
    atexit.register(gc.freeze)  # As it ends, Python searches all it holds for cycles, which takes long with torch.
    state: dict[str, Any] = {"debug": False}
    torchrun = None
    try:
        torchrun = _torchrun(args)
        # click returns the code of ctx.exit() here, and None where a command just ends.
        returned = olc.main(args, prog_name="olc", standalone_mode=False, obj=state)
        code = returned if isinstance(returned, int) else 0
    except click.exceptions.Exit as exit_:
        code = exit_.exit_code
    except (KeyboardInterrupt, click.Abort):
        code = 130
    except Terminated:
        code = 143
    except (ClosedPipe, BrokenPipeError):
        _drop_stdout()
        code = 0
    except click.ClickException as problem:
        _show_usage(problem, sys.argv[1:] if args is None else args)
        code = problem.exit_code
    except OlcError as problem:
        if state["debug"]:
            raise
        from openllama_cli.terminal.streams import error

        error(problem.cause, problem.remedy)
        code = problem.exit_code
    _exit(code if torchrun is None else torchrun.end(code))


def _torchrun(args: list[str] | None) -> ModuleType | None:
    """The module that starts and ends a run of several processes under torchrun; None in an ordinary run."""
    if "LOCAL_RANK" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        return None
    from openllama_cli.commands.shared import torchrun

    return torchrun if torchrun.begin(sys.argv[1:] if args is None else args) else None


def _show_usage(problem: click.ClickException, args: list[str]) -> None:
    """Print a usage error of click's as olc's two lines, pointing to the help of the command."""
    from openllama_cli.terminal.streams import drop, error, one_line

    if isinstance(problem, click.exceptions.NoArgsIsHelpError):
        try:
            click.echo(problem.format_message(), err=True)
        except OSError:
            drop(sys.stderr)
        return
    ctx = getattr(problem, "ctx", None)
    # An option without its argument has no context in click.
    named = f"olc {args[0]}" if args and args[0] in COMMANDS else "olc"
    remedy = f"see `{ctx.command_path if ctx is not None else named} --help`"
    dashed = _dashed(args, problem) if isinstance(problem, click.NoSuchOption | click.BadParameter) else None
    if ctx is not None and ctx.info_name in TEXTS and problem.message.startswith("Got unexpected extra argument"):
        import shlex

        arguments = [param.name for param in ctx.command.params if isinstance(param, click.Argument) and param.name]
        first = next((ctx.params[name] for name in arguments if isinstance(ctx.params.get(name), str)), "…")
        words = f"{first} {problem.message.partition('(')[2].rpartition(')')[0]}"
        command = [*ctx.command_path.split(), words, *_without(args[1:], words.split(" "))]
        remedy = f"put quotes around the text: {shlex.join(command)}; {remedy}"
        if "--choices" in args:
            remedy = f"separate choices by commas: --choices yes,no; or {remedy}"
    elif ctx is not None and ctx.parent is not None and dashed is not None:
        import shlex

        rest = [argument for argument in args if argument != dashed]
        remedy = f"if {one_line(dashed)!r} is a text, put it last, after --: {shlex.join(['olc', *rest, '--', dashed])}"
    elif isinstance(problem, click.NoSuchOption) and not problem.possibilities and _takes_text(ctx):
        assert ctx is not None
        remedy += f'; a text that begins with - goes after --: {ctx.command_path} -- "-…"'
    error(problem.format_message().rstrip("."), remedy)


def _without(args: list[str], words: list[str]) -> list[str]:
    """Arguments without those that are these words, in their order."""
    rest = iter(words)
    word = next(rest, None)
    kept = []
    for argument in args:
        if argument == word:
            word = next(rest, None)
        else:
            kept.append(argument)
    return kept


def _dashed(args: list[str], problem: click.UsageError) -> str | None:
    """The argument that a problem is with, if it is a text that begins with a dash: having spaces, it is no option."""
    import re

    if isinstance(problem, click.NoSuchOption):
        names = [problem.option_name]
    else:
        names = list(getattr(getattr(problem, "param", None), "opts", []))
    params = problem.ctx.command.params if problem.ctx is not None else []
    takes_value = {name for param in params if isinstance(param, click.Option) and not param.is_flag for name in param.opts}
    options = args[: args.index("--")] if "--" in args else args
    for before, text in zip(["", *options], options, strict=False):
        is_text = re.match(r"--?[^\s=]*\s", text) is not None and before not in takes_value
        if is_text and any(text.startswith(name[:2]) for name in names):
            return text
    return None


def _takes_text(ctx: click.Context | None) -> bool:
    return ctx is not None and ctx.info_name in (*TEXTS, "generate")


def _drop_stdout() -> None:
    # What has not been written stays in its buffer, and would fail again at each flush until the exit.
    from openllama_cli.terminal.streams import drop

    drop(sys.stdout)


def _exit(code: int) -> NoReturn:
    try:
        if sys.stdout is not None:  # None where the caller closed it
            sys.stdout.flush()
    except BrokenPipeError:
        _drop_stdout()
        code = 0
    sys.exit(code)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated
