"""`olc tokenize`: the ids and pieces of a text, and the comparison with transformers' LlamaTokenizer."""

import sys
from typing import Any

import click

from openllama_cli.commands.shared.options import file_option, model_option
from openllama_cli.commands.shared.prompt_input import read_prompt, stdin_has_input
from openllama_cli.errors import ModelError, UsageError
from openllama_cli.models.find import find
from openllama_cli.models.spec import ModelSpec
from openllama_cli.models.tokenizer.base import Tokenizer
from openllama_cli.models.tokenizer.compare import FIXED_TEXTS, Comparison, compare
from openllama_cli.models.tokenizer.open import open_tokenizer
from openllama_cli.terminal.streams import is_terminal, notice, out, out_json

EXAMPLES = """\b
Examples:
  olc tokenize "Q: What is the largest animal?"
  olc tokenize -f notes.txt | wc -w
  printf 'def f():\\n    pass\\n' | olc tokenize --json
  olc tokenize "  two spaces" --check -m ./open_llama_3b
"""


@click.command(epilog=EXAMPLES)
@click.argument("text", required=False)
@file_option("The text is this file's, byte for byte; - is stdin.")
@click.option("--json", "as_json", is_flag=True, help='One JSON object: {"model", "ids", "pieces"}.')
@click.option("--no-bos", is_flag=True, help="Leave out the token that begins every sequence.")
@click.option("--check", is_flag=True, help="Compare with transformers' LlamaTokenizer; exit 1 where they differ.")
@model_option
@click.option("--revision", metavar="REV", help="Branch, tag or commit on the Hub.")
@click.option("--offline", is_flag=True, help="Never use the network. [env: HF_HUB_OFFLINE=1]")
def command(
    text: str | None,
    file: str | None,
    as_json: bool,
    no_bos: bool,
    check: bool,
    model: str | None,
    revision: str | None,
    offline: bool,
) -> None:
    """Show the token ids of TEXT, as the model sees them.

    Without TEXT, or with -, the text is read from stdin. A terminal shows each piece above its id, a pipe gets the ids on one
    line, separated by spaces. Neither torch nor transformers is loaded, except for --check.
    """
    if text is None and file is None and not stdin_has_input():
        raise UsageError("a text is missing", 'give it as an argument, such as "hello world", or on stdin')
    prompt = read_prompt(text, file, None, (), escape=False).text
    name, tokenizer = _open(ModelSpec(model=model, revision=revision, offline=offline))
    ids = tokenizer.encode(prompt, bos=not no_bos)
    document: dict[str, Any] = {"model": name, "ids": ids, "pieces": [tokenizer.piece(token) for token in ids]}
    if check:
        _check(tokenizer, prompt, document, as_json=as_json)
    elif as_json:
        out_json(document)
    elif is_terminal(sys.stdout):
        _show(document, tokenizer, prompt)
    else:
        out(" ".join(map(str, ids)) + "\n")


def _open(spec: ModelSpec) -> tuple[str, Tokenizer]:
    from openllama_cli.terminal.progress import TerminalProgress

    progress = TerminalProgress()
    try:
        folder = find(spec, progress=progress, notice=notice, weights=False)
    finally:
        progress.finish()
    if folder.chosen_by == "fallback":
        notice("olc: no model chosen, so these are the tokens of the built-in demo. For OpenLLaMA's: -m 3b-v2")
    return folder.name, open_tokenizer(folder.path)


def _show(document: dict[str, Any], tokenizer: Tokenizer, text: str) -> None:
    from openllama_cli.terminal.views.pieces import show_pieces

    show_pieces(document["ids"], document["pieces"], tokenizer.special_ids)
    tokens, characters = len(document["ids"]), len(text)
    out(
        f"{tokens} token{'s' * (tokens != 1)}, {characters} character{'s' * (characters != 1)}; "
        f"{document['model']}: {tokenizer.kind}, {tokenizer.vocab_size} pieces\n",
        style="dim",
    )


def _check(tokenizer: Tokenizer, text: str, document: dict[str, Any], *, as_json: bool) -> None:
    """Compare on the text, on fixed texts and on BOS, and report. Raises ModelError if anything differs."""
    from openllama_cli.models.tokenizer.in_transformers import load_llama_tokenizer

    theirs = load_llama_tokenizer(tokenizer.path.parent)

    def encode(text: str) -> list[int]:
        return list(theirs.encode(text, add_special_tokens=False))

    rows = compare(lambda text: tokenizer.encode(text, bos=False), encode, {"the text": text, **FIXED_TEXTS})
    # What begins a sequence is its own row, or it would make every other one differ.
    rows.insert(1, Comparison("BOS", "", tuple(tokenizer.encode("")), tuple(theirs.encode(""))))
    differing = sum(not row.same for row in rows)
    if as_json:
        out_json(document | {"check": {"same": not differing, "texts": [_as_json(row) for row in rows]}})
    else:
        from openllama_cli.terminal.tables import table

        columns = ("text", "transformers", "first difference")
        table(columns, [(row.name, "same" if row.same else "differs", _difference(tokenizer, theirs, row)) for row in rows])
    if differing:
        library = "SentencePiece" if tokenizer.kind.startswith("sentencepiece") else "tokenizers"
        raise ModelError(
            f"transformers' LlamaTokenizer gives other tokens for {differing} of {len(rows)} texts",
            f"olc is not affected: it encodes with the {library} library; in code of your own, do the same",
            code="tokenizers_differ",
        )


def _difference(tokenizer: Tokenizer, theirs: Any, row: Comparison) -> str:
    """The first token that differs, in both."""
    place = row.first_difference
    if place is None:
        return ""
    ours = f"{tokenizer.piece(row.ours[place])} ({row.ours[place]})" if place < len(row.ours) else "the end"
    other = f"{theirs.convert_ids_to_tokens(row.theirs[place])} ({row.theirs[place]})" if place < len(row.theirs) else "the end"
    return f"token {place + 1}: olc {ours}, transformers {other}"


def _as_json(row: Comparison) -> dict[str, Any]:
    return {
        "name": row.name,
        "text": row.text,
        "same": row.same,
        "first_difference": row.first_difference,
        "olc": row.ours,
        "transformers": row.theirs,
    }
