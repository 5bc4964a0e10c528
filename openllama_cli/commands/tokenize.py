"""`olc tokenize`: the ids and pieces of a text, and the comparison with transformers' AutoTokenizer."""

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from openllama_cli.commands.shared.model import open_tokenizer
from openllama_cli.commands.shared.options import adapter_option, file_option, model_option, offline_option, revision_option
from openllama_cli.commands.shared.prompt_input import missing, read_prompt
from openllama_cli.errors import ModelError
from openllama_cli.models.spec import ModelSpec
from openllama_cli.models.tokenizer.base import Tokenizer
from openllama_cli.terminal.streams import is_terminal, note, out, out_json, stdin_has_input

if TYPE_CHECKING:
    from openllama_cli.models.tokenizer.compare import Comparison

EXAMPLES = """\b
Examples:
  olc tokenize "Q: What is the largest animal?"
  olc tokenize -f notes.txt | wc -w
  printf 'def f():\\n    pass\\n' | olc tokenize --json
  olc tokenize "  two spaces" --check -m ./open_llama_3b
"""


@click.command(epilog=EXAMPLES)
@click.argument("text", required=False)
@file_option("File with the text, all of it, byte for byte; - is stdin.")
@click.option("--json", "as_json", is_flag=True, help='Print one JSON object: {"model", "ids", "pieces"}.')
@click.option("--no-bos", is_flag=True, help="Leave out the BOS token.")
@click.option("--check", is_flag=True, help="Compare with transformers' AutoTokenizer; exit 1 if they differ.")
@model_option
@adapter_option
@revision_option
@offline_option
def command(
    text: str | None,
    file: str | None,
    as_json: bool,
    no_bos: bool,
    check: bool,
    model: str | None,
    adapters: tuple[str, ...],
    revision: str | None,
    offline: bool,
) -> None:
    """Print the token ids of TEXT, as the model sees them.

    Without TEXT, or with -, the text is read from stdin. A terminal shows each piece above its id; a pipe gets the ids on one
    line, separated by spaces. Neither torch nor transformers is imported, except for --check.
    """
    if text is None and file is None and not stdin_has_input():
        raise missing("text", 'give it as an argument, such as "hello world", or on stdin')
    prompt = read_prompt(text, file, None, (), escape=False).text
    folder, tokenizer = open_tokenizer(ModelSpec(model=model, revision=revision, offline=offline, adapters=adapters))
    if folder.chosen_by == "fallback":
        note("no model chosen, so these are the tokens of the built-in demo model. For OpenLLaMA's: -m 3b-v2")
    ids = tokenizer.encode(prompt, bos=not no_bos)
    document: dict[str, Any] = {"model": folder.name, "ids": ids, "pieces": [tokenizer.piece(token) for token in ids]}
    if check:
        _check(tokenizer, prompt, document, as_json=as_json)
    elif as_json:
        out_json(document)
    elif is_terminal(sys.stdout):
        _show(document, tokenizer, prompt)
    else:
        out(" ".join(map(str, ids)) + "\n")


def _show(document: dict[str, Any], tokenizer: Tokenizer, text: str) -> None:
    from openllama_cli.terminal.views.tokenize import show_note, show_pieces

    show_pieces(document["ids"], document["pieces"], tokenizer.special_ids)
    tokens, characters = len(document["ids"]), len(text)
    show_note(
        f"{tokens} token{'s' * (tokens != 1)}, {characters} character{'s' * (characters != 1)}; "
        f"{document['model']}: {tokenizer.kind}, {tokenizer.vocab_size} pieces"
    )


def _check(tokenizer: Tokenizer, text: str, document: dict[str, Any], *, as_json: bool) -> None:
    """Compare on the text, on fixed texts and on BOS, and report. Raises ModelError if anything differs."""
    from openllama_cli.models.hub.environment import check_seconds
    from openllama_cli.models.tokenizer.compare import FIXED_TEXTS, Comparison, load_auto_tokenizer
    from openllama_cli.terminal.progress import working

    check_seconds()
    with working("importing transformers"):
        theirs = load_auto_tokenizer(tokenizer.path if tokenizer.path.suffix == ".gguf" else tokenizer.path.parent)

    rows = []
    for name, one in {"the text": text, **FIXED_TEXTS}.items():
        ours = tokenizer.encode(one, bos=False)
        rows.append(Comparison(name, one, tuple(ours), tuple(theirs.encode(one, add_special_tokens=False))))
    # BOS is a row of its own, or it would make every other one differ.
    rows.insert(1, Comparison("BOS", "", tuple(tokenizer.encode("")), tuple(theirs.encode(""))))
    differing = [row for row in rows if not row.same]
    if as_json:
        out_json(document | {"check": {"same": not differing, "texts": [_as_json(row) for row in rows]}})
    else:
        from openllama_cli.terminal.tables import table

        columns = ("text", "transformers", "first difference")
        table(columns, [(row.name, "same" if row.same else "differs", _difference(tokenizer, theirs, row)) for row in rows])
    for one in tokenizer.notes:
        note(one)
    if differing:
        raise ModelError(
            f"transformers' AutoTokenizer gives different tokens for {len(differing)} of {len(rows)} texts",
            "; ".join(_reasons(tokenizer, differing)),
            code="tokenizers_differ",
        )


def _reasons(tokenizer: Tokenizer, differing: Sequence["Comparison"]) -> Iterator[str]:
    """Why olc has other tokens on purpose, and how to have them in one's own code."""
    from openllama_cli.models.tokenizer.compare import SPECIAL

    names = {row.name for row in differing}
    bos = next((row for row in differing if row.name == "BOS"), None)
    if names - {"BOS", SPECIAL}:
        known = tokenizer.kind.startswith("sentencepiece")
        library, file = ("SentencePiece", "tokenizer.model") if known else ("tokenizers", "tokenizer.json")
        yield f"olc follows {file} itself, with the {library} library: do the same in your own code"
    if bos is not None and len(bos.ours) > len(bos.theirs):
        yield "olc puts BOS in front, as in training: in your own code, set add_bos_token = True on the tokenizer"
    elif bos is not None and not bos.ours and bos.theirs[0] not in tokenizer.eos_ids:
        yield "olc puts no BOS in front, as add_bos_token says: in your own code, set add_bos_token = False on the tokenizer"
    elif bos is not None:
        yield "olc puts no EOS behind a prompt, or it could not be completed: in your own code, set add_eos_token = False"
    if SPECIAL in names:
        yield "a special token that is typed stays text in olc: in your own code, encode with split_special_tokens=True"


def _difference(tokenizer: Tokenizer, theirs: Any, row: "Comparison") -> str:
    """The first token that differs, in both tokenizers."""
    place = row.first_difference
    if place is None:
        return ""
    ours = f"{tokenizer.piece(row.ours[place])} ({row.ours[place]})" if place < len(row.ours) else "the end"
    other = f"{theirs.convert_ids_to_tokens(row.theirs[place])} ({row.theirs[place]})" if place < len(row.theirs) else "the end"
    return f"token {place + 1}: olc {ours}, transformers {other}"


def _as_json(row: "Comparison") -> dict[str, Any]:
    return {
        "name": row.name,
        "text": row.text,
        "same": row.same,
        "first_difference": row.first_difference,
        "olc": row.ours,
        "transformers": row.theirs,
    }
