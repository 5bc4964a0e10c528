"""`olc models`: list, pull, info, convert, default, rm."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from openllama_cli.commands.shared import shell_completion as suggest
from openllama_cli.commands.shared.options import adapter_option
from openllama_cli.errors import UsageError
from openllama_cli.models import find
from openllama_cli.models.find import read_default, write_default
from openllama_cli.models.hub.cache import cached, cached_model, disk_bytes, remove, repo_folder
from openllama_cli.models.quantize.copies import remove_copies
from openllama_cli.system.memory import size
from openllama_cli.system.paths import hub_cache_dir
from openllama_cli.terminal.figures import count
from openllama_cli.terminal.streams import is_terminal, notice, one_line, out, out_json
from openllama_cli.terminal.tables import fields, table

_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
_revision_option = click.option("--revision", metavar="REV", help="Branch, tag or commit on the Hub.  [default: main]")

EXAMPLES = """
Examples:

\b
  olc models list
  olc models pull 3b-v2
  olc models default 3b-v2
  olc models info 3b-v2
  olc models convert ./llama-7b ./llama-7b-hf
  olc models rm openlm-research/open_llama_3b
"""


@click.group(epilog=EXAMPLES)
def command() -> None:
    """List, download, inspect, convert and remove models.

    MODEL is an alias (3b-v2), a Hub id (organization/name), a folder, or a GGUF file (also organization/name:FILE.gguf).
    """


@command.command(
    "list",
    short_help="List known and cached models.",
    epilog="Example: olc models list --json | jq '.models[] | select(.state == \"ready\") | .path'",
)
@_json_option
def list_(as_json: bool) -> None:
    """List the models that olc knows by name and those in the Hugging Face cache.

    --json: {"models": [{"alias", "repo_id", "file", "description", "parameters", "download_bytes", "cached_bytes", "revision",
    "path", "state", "default"}], "default", "chosen_by", "quantised": [{"model", "method", "repo_id", "revision", "folder",
    "bytes", "path"}], "bench": [{"name", "shape", "dtype", "bytes", "path", "complete"}]}; quantised: the copies that
    --quantize made; bench: the random models of `olc bench --shape`; file: of a model in GGUF, the file of the repository.
    """
    from openllama_cli.benchmark.shapes import list_random_models
    from openllama_cli.models.listing import list_models

    listing, random_models = list_models(), list_random_models()
    if as_json:
        document = dataclasses.asdict(listing)
        # The field keeps the spelling that it was published with.
        document["quantised"] = document.pop("quantized")
        out_json(document | {"bench": [dataclasses.asdict(model) for model in random_models]})
        return
    rows: list[tuple[str, ...]] = [
        (
            "*" if model.default else "",
            model.alias or (f"{model.repo_id}:{model.file}" if model.file else model.repo_id) or model.path or "",
            count(model.parameters),
            size(model.download_bytes) if model.download_bytes else "",
            size(model.cached_bytes) if model.cached_bytes else "",
            model.state,
            model.repo_id if model.alias and model.repo_id else model.description,
        )
        for model in listing.models
    ]
    # On a terminal the long path of one copy would leave no room for the column.
    whole = not is_terminal(sys.stdout)
    for copy in listing.quantized:
        where = copy.repo_id or (copy.folder if whole else "")
        rows.append(("", f"{copy.model} {copy.method}", "", "", size(copy.bytes), "quantized", where))
    for random in random_models:
        state = "ready" if random.complete else "incomplete"
        rows.append(("", random.name, "", "", size(random.bytes), state, random.path if whole else "random"))
    columns = ("default", "model", "parameters", "download", "on disk", "state", "repository")
    table(columns, rows, right=("parameters", "download", "on disk"), optional=("repository", "parameters"))
    if is_terminal(sys.stdout):
        notice(f"without --model: {listing.default} ({_WHY[listing.chosen_by]}); cache: {hub_cache_dir()}")


@command.command(
    short_help="Download a model, or the rest of one.",
    epilog="""\b
Examples:
  olc models pull 3b-v2
  olc models pull organization/name-GGUF:name.Q8_0.gguf
""",
)
@click.argument("model", shell_complete=suggest.models_on_hub)
@_revision_option
@_json_option
def pull(model: str, revision: str | None, as_json: bool) -> None:
    """Download a model, or the files it is missing, and print its folder. organization/name:FILE.gguf downloads that file, and
    the id of a LoRA adapter the adapter.

    An interrupted download resumes where it stopped. Files go into the Hugging Face cache, which other tools share; HF_HOME
    moves it. For gated and private models set HF_TOKEN.
    """
    from openllama_cli.models.hub import pull as hub
    from openllama_cli.terminal.progress import TerminalProgress

    name, file = find.file_on_hub(model)
    repo_id = find.resolve_on_hub(name)
    folder = hub.pull(repo_id, revision, file=file, progress=TerminalProgress(), notice=notice)
    path = folder if file is None else folder / file
    if as_json:
        out_json({"repo_id": repo_id, "revision": folder.name, "path": str(path), "bytes": disk_bytes(path)})
    else:
        out(f"{path}\n")


@command.command(
    short_help="Show architecture, size, tokenizer and files.", epilog="Example: olc models info 3b-v2 --json | jq .parameters"
)
@click.argument("model", required=False, shell_complete=suggest.models)
@_revision_option
@_json_option
def info(model: str | None, revision: str | None, as_json: bool) -> None:
    """Show a model's architecture, size, tokenizer and files. Nothing is downloaded.

    Without MODEL: the model used by default. --json gives the same keys for every model, null where something is unknown.
    """
    from openllama_cli.models.details import details

    name, chosen_by = find.choose(model)
    document = details(find.resolve(name, chosen_by), revision)
    if as_json:
        out_json(document)
    else:
        fields(_lines(document))


@command.command(
    short_help="Convert a Meta, .bin or GGUF model to safetensors.",
    epilog="""\b
Examples:
  olc models convert ./llama-2-7b ./llama-2-7b-hf
  olc models convert ./name.Q8_0.gguf ./name
  olc models convert 3b-v2 ./my-model --adapter ./my-lora
""",
)
@click.argument("src", shell_complete=suggest.models)
@click.argument("dst", type=click.Path(path_type=Path), shell_complete=suggest.folders)
@adapter_option
@_json_option
def convert(src: str, dst: Path, adapters: tuple[str, ...], as_json: bool) -> None:
    """Convert the model SRC, in Meta's format, .bin or GGUF, to safetensors in the new folder DST, and print DST.

    With --adapter the merged model is written, of a SRC in safetensors too.

    The weights are streamed, so that memory holds about one of them at a time. Their dtypes do not change, but for quantized
    ones of a GGUF file, which become float16.
    """
    from openllama_cli.models.checkpoint.convert import convert as convert_model
    from openllama_cli.models.spec import ModelSpec
    from openllama_cli.terminal.progress import TerminalProgress

    progress = TerminalProgress()
    source = find.find(ModelSpec(model=src, adapters=adapters), progress=progress, notice=notice)
    checkpoint = convert_model(source.path, dst, adapters=source.adapters, progress=progress)
    if as_json:
        files = [file.name for file in checkpoint.files]
        out_json({"path": str(dst), "dtype": checkpoint.dtype, "parameters": checkpoint.shape.parameters(), "files": files})
    else:
        out(f"{dst}\n")


@command.command(short_help="Show or set the default model.", epilog="Example: olc models default 3b-v2")
@click.argument("model", required=False, shell_complete=suggest.models)
@click.option("--unset", is_flag=True, help="Remove the default.")
def default(model: str | None, unset: bool) -> None:
    """Show the model that is used without --model, or set it to MODEL.

    OLC_MODEL takes precedence over it, and --model over both.
    """
    if unset and model is not None:
        raise UsageError(f"--unset and {model} cannot be combined", "give only one of them")
    if unset:
        write_default(None)
    elif model is not None:
        target = find.resolve(model)
        # A folder is found again from wherever olc is run.
        write_default(str(target.path.resolve()) if target.origin == "folder" and target.path else target.name)
        if target.repo_id is not None and cached(target.repo_id, file=target.file) is None:
            notice(
                f"{target.name} is the default now, and not downloaded yet: olc models pull {target.name} "
                "(else the next command that needs it does that)"
            )
    name, chosen_by = find.choose(None)
    if model is None and not unset:
        out(f"{name}\n")
        stored = read_default()
        hint = f"the default is {stored}" if stored else "set one with `olc models default MODEL`"
        notice(_WHY[chosen_by] if chosen_by == "default" else f"{_WHY[chosen_by]}; {hint}")
    elif chosen_by == "environment":
        notice(f"OLC_MODEL is set to {name}, which takes precedence over the default")


@command.command(
    "rm", short_help="Remove a model, or its quantized copies, from the cache.", epilog="Example: olc models rm 3b-v2 --yes"
)
@click.argument("model", shell_complete=suggest.models)
@click.option("--revision", metavar="REV", help="Only this branch, tag or commit.  [default: all revisions]")
@click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
@_json_option
def rm(model: str, revision: str | None, yes: bool, as_json: bool) -> None:
    """Remove a model from the Hugging Face cache, with unfinished downloads and the copies that --quantize made of it.

    The demo model and local folders are not in the cache: only their quantized copies are removed. To remove a single copy,
    give the name that `olc models list` shows ("demo int8"); "bench" means all random models of `olc bench --shape`. With
    --revision, files that other revisions use are kept.
    """
    from openllama_cli.benchmark.shapes import list_random_models, remove_random_models
    from openllama_cli.models.listing import copies_of_folder, copies_of_repository

    random_models = [one for one in list_random_models() if model in (one.name, "bench")] if revision is None else []
    if random_models:
        _confirm(", ".join(one.name for one in random_models), sum(one.bytes for one in random_models), yes)
        freed = remove_random_models(random_models)
        if as_json:
            out_json({"repo_id": None, "revision": None, "freed_bytes": freed})
        else:
            out(f"removed {', '.join(one.name for one in random_models)}: {size(freed)} freed\n")
        return
    whole, file = find.file_on_hub(model)
    if file is not None:
        raise UsageError(f"{model} is one file of {whole}, which is removed as a whole", f"olc models rm {whole}")
    copies = copies_of_folder(model) if revision is None else []
    repo_id = None if copies else find.resolve_on_hub(model)
    held = None
    if repo_id is not None:
        held, copies = cached_model(repo_id), copies_of_repository(repo_id, revision)
    counted = f"{len(copies)} quantized cop{'y' if len(copies) == 1 else 'ies'}"
    from_hub = repo_id if held is not None or not copies else None
    if from_hub is None:
        what = f"{counted} of {model}"
    else:
        what = f"{from_hub}{f' at {revision}' if revision else ''}" + (f" and {counted}" if copies else "")
    if held is not None or copies:
        total = sum(copy.bytes for copy in copies) + (held.bytes if held is not None else 0)
        _confirm(what, total if revision is None else None, yes)
    freed = (0 if from_hub is None else remove(from_hub, revision)) + remove_copies(copies)
    if as_json:
        out_json({"repo_id": repo_id, "revision": None if from_hub is None else revision, "freed_bytes": freed})
    else:
        out(f"removed {what}: {size(freed)} freed\n")
    default = read_default()
    if from_hub is not None and default in (model, from_hub) and not repo_folder(from_hub).exists():
        notice(f"{default} is still the default model; change that with `olc models default`")


def _confirm(what: str, total: int | None, yes: bool) -> None:
    """Ask, unless --yes was given. Raises UsageError where nobody can answer, and ends the command after a no."""
    if yes:
        return
    if not is_terminal(sys.stdin):
        raise UsageError(f"removing {what} needs confirmation", "add --yes")
    if not click.confirm(
        f"Remove {one_line(what)}{f' ({size(total)})' if total is not None else ''} from the cache?", err=True
    ):
        notice("nothing was removed")
        click.get_current_context().exit(0)


_WHY = {
    "flag": "--model",
    "environment": "from OLC_MODEL",
    "default": "set with `olc models default`",
    "fallback": "the built-in demo, because no default is set",
}


def _lines(document: dict[str, Any]) -> list[tuple[str, str | None]]:
    """`olc models info` for people."""
    tokenizer, state = document["tokenizer"], document["state"]
    alone = any(adapter["applied"] for adapter in document["adapters"] or ())  # What is to be downloaded is its model.
    pull = f"olc models pull {document['repo_id'] if alone else document['model']}"
    if document["missing"]:
        state += f" (missing {', '.join(document['missing'])}); continue with: {pull}"
    elif state != "ready":
        state += f"; download it with: {pull}"
    lines: list[tuple[str, str | None]] = [
        ("model", document["model"]),
        ("repository", document["repo_id"]),
        ("state", state),
        ("revision", document["revision"]),
        ("folder", document["path"]),
    ]
    if document["architecture"] is not None:
        lines += [
            ("architecture", document["architecture"]),
            ("parameters", f"{document['parameters']:,} ({count(document['parameters'])})"),
            ("context", f"{document['context']:,} tokens"),
            ("layers", f"{document['layers']} of width {document['hidden_size']}, MLP {document['intermediate_size']}"),
            ("heads", f"{document['heads']} ({document['kv_heads']} key/value) of size {document['head_dim']}"),
            ("vocabulary", f"{document['vocabulary']:,}"),
        ]
    if tokenizer is not None:
        lines.append(("tokenizer", f"{tokenizer['kind']}, sha256 {tokenizer['sha256']}"))
    if document["format"]:
        lines.append(("format", f"{document['format']}, {document['dtype']}, {size(document['bytes'])}"))
    for file in document["files"] or ():
        checksum = f", sha256 {file['sha256']}" if file["sha256"] else ""
        lines.append((file["name"], f"{size(file['bytes'])}{checksum}"))
    for adapter in document["adapters"] or ():
        use = (
            ""
            if adapter["applied"]
            else f"; beside the model and not applied: --adapter {shlex.quote(adapter['path'])} applies it"
        )
        made_for = f", made for {adapter['base_model']}" if adapter["base_model"] else ""
        lines.append(("adapter", f"{adapter['path']}{made_for}{use}"))
    if document["bytes_on_disk"]:
        lines.append(("on disk", size(document["bytes_on_disk"])))
    return lines
