"""What olc knows of a tokenizer.json: one table of every component of the `tokenizers` library and every one of its settings.

The library itself runs them, so results are its own. A component or a setting that is not in the table is refused by name,
never dropped without a word: it is newer than olc, or would make text that cannot be shown as it is generated.
"""

import base64
import binascii
import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from openllama_cli.errors import ModelError, first_line
from openllama_cli.models.model_files import damaged, fetch_again

_BYTE_LEVEL = {"add_prefix_space", "trim_offsets", "use_regex"}
_METASPACE = {"replacement", "prepend_scheme", "split", "add_prefix_space", "str_rep"}

COMPONENTS: Mapping[str, Mapping[str, set[str]]] = {
    "model": {
        # dropout is for training: `JsonTokenizer` switches it off.
        "BPE": {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback"}
        | {"ignore_merges", "vocab", "merges"},
        "Unigram": {"unk_id", "vocab", "byte_fallback"},
        "WordPiece": {"unk_token", "continuing_subword_prefix", "max_input_chars_per_word", "vocab"},
        "WordLevel": {"vocab", "unk_token"},
    },
    "normalizer": {
        "BertNormalizer": {"clean_text", "handle_chinese_chars", "strip_accents", "lowercase"},
        "ByteLevel": set(),
        "Lowercase": set(),
        "NFC": set(),
        "NFD": set(),
        "NFKC": set(),
        "NFKD": set(),
        "Nmt": set(),
        "Precompiled": {"precompiled_charsmap"},
        "Prepend": {"prepend"},
        "Replace": {"pattern", "content"},
        "Sequence": {"normalizers"},
        "Strip": {"strip_left", "strip_right"},
        "StripAccents": set(),
    },
    "pre_tokenizer": {
        "BertPreTokenizer": set(),
        "ByteLevel": _BYTE_LEVEL,
        "CharDelimiterSplit": {"delimiter"},
        "Digits": {"individual_digits"},
        "FixedLength": {"length"},
        "Metaspace": _METASPACE,
        "Punctuation": {"behavior"},
        "Sequence": {"pretokenizers"},
        "Split": {"pattern", "behavior", "invert"},
        "UnicodeScripts": set(),
        "Whitespace": set(),
        "WhitespaceSplit": set(),
    },
    "post_processor": {
        "BertProcessing": {"sep", "cls"},
        "ByteLevel": _BYTE_LEVEL,
        "RobertaProcessing": {"sep", "cls", "trim_offsets", "add_prefix_space"},
        "Sequence": {"processors"},
        "TemplateProcessing": {"single", "pair", "special_tokens"},
    },
    # Not CTC: it merges equal neighbors, as speech models need.
    "decoder": {
        "BPEDecoder": {"suffix"},
        "ByteFallback": set(),
        "ByteLevel": _BYTE_LEVEL,
        "Fuse": set(),
        "Metaspace": _METASPACE,
        "Replace": {"pattern", "content"},
        "Sequence": {"decoders"},
        "Strip": {"content", "start", "stop"},
        "WordPiece": {"prefix", "cleanup"},
    },
}

ADDED_TOKEN = {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"}
# truncation and padding are of batches for training; olc uses neither.
TOP_LEVEL = {"version", "truncation", "padding", "added_tokens", *COMPONENTS}

# How many times longer than the text that was typed a normalizer may make it, and how much may stand for one character.
_MOST_GROWTH, _LONGEST_CHARACTER = 64, 1024
_MOST_PARTS = 1000
# The vocabulary comes last; added tokens and a normalizer's table come before the post-processor.
_HEAD = 4 * 2**20


@dataclass(frozen=True)
class Description:
    """A tokenizer.json as far as it is not the library's alone.

    decoder: the types of its decoders, in order. before, after: ids that its post-processor puts around a
    text. searches: whether it has regular expressions of its own, or other parts whose time nothing bounds. unk: its unk_token.
    """

    decoder: tuple[str, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    searches: bool
    unk: object


def describe(document: Mapping[str, Any], file: Path) -> Description:
    """Look a tokenizer.json up in the table. Raises ModelError naming the component or setting that is not in it."""
    _refuse_unknown(document.keys() - TOP_LEVEL, "setting", file)
    added = document.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise damaged(file, "is not a tokenizer.json: added_tokens is not a list of objects")
    for token in added:
        _refuse_unknown(token.keys() - ADDED_TOKEN, "setting of an added token", file)
    model = document.get("model")
    if not isinstance(model, dict):
        raise damaged(file, "is not a tokenizer.json: it has no model")
    parts = {kind: list(_parts(document.get(kind), kind, file)) for kind in COMPONENTS}
    _refuse_growth(parts["normalizer"], file)
    _refuse_late_replacements(parts["decoder"], file)
    before, after = _around(parts["post_processor"], file)
    return Description(
        decoder=tuple(part["type"] for part in parts["decoder"]),
        before=before,
        after=after,
        searches=any(_is_regex(part.get("pattern")) for kind in parts for part in parts[kind])
        or model.get("type") == "WordPiece",
        unk=model.get("unk_token"),
    )


def ids_before(file: Path) -> tuple[int, ...] | None:
    """The ids that the post-processor of a tokenizer.json puts in front of a text, found without reading its vocabulary.

    None where it cannot be found: the file comes in another order, or is damaged.
    """
    with contextlib.suppress(OSError, ValueError, RecursionError, ModelError), file.open("rb") as stream:
        start = stream.read(_HEAD).decode(errors="ignore")
        place = re.search(r'"post_processor"\s*:\s*', start)
        if place is not None:
            value, _ = json.JSONDecoder().raw_decode(start, place.end())
            return _around(list(_parts(value, "post_processor", file)), file)[0]
    return None


def unreadable(error: BaseException, file: Path) -> ModelError:
    """The error of a tokenizer.json that the library refuses, although olc knows its components by name."""
    return ModelError(
        f"{file} is not a tokenizer.json that tokenizers {version('tokenizers')} can read: {first_line(error)}",
        f"a newer version may read it: pip install -U tokenizers; otherwise {fetch_again(file)}",
    )


def _refuse_unknown(names: set[str], what: str, file: Path) -> None:
    for name in sorted(map(str, names)):
        raise ModelError(
            f"{file} has the {what} {name[:60]!r}, which olc with tokenizers {version('tokenizers')} does not know",
            "a newer version may read it: pip install -U openllama-cli",
        )


def _parts(value: object, kind: str, file: Path) -> Iterator[dict[str, Any]]:
    """The components of a kind, those in sequences one by one."""
    waiting: list[object] = [value]
    for _ in range(_MOST_PARTS):
        if not waiting:
            return
        part = waiting.pop(0)
        if part is None:
            continue
        if not isinstance(part, dict):
            raise damaged(file, f"is not a tokenizer.json: its {kind} is a JSON {type(part).__name__}, not an object")
        type_ = part.get("type")
        if type_ is None and kind == "model":  # Old files name no type; the library finds it by its settings.
            known: set[str] = set().union(*COMPONENTS[kind].values())
        elif not isinstance(type_, str) or type_ not in COMPONENTS[kind]:
            _refuse_unknown({str(type_)}, kind.replace("_", "-"), file)
            return
        else:
            known = COMPONENTS[kind][type_]
        _refuse_unknown(part.keys() - known - {"type"}, f"setting of {type_}", file)
        if type_ == "Sequence":
            inner = next((part[name] for name in known if name in part), None)
            if not isinstance(inner, list):
                raise damaged(file, f"is not a tokenizer.json: a Sequence of its {kind} has no list")
            waiting[:0] = inner[:_MOST_PARTS]
        else:
            yield part
    raise damaged(file, f"is not a tokenizer.json: its {kind} has more than {_MOST_PARTS} parts")


def _is_regex(pattern: object) -> bool:
    return isinstance(pattern, dict) and "Regex" in pattern


def _refuse_growth(normalizers: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Raise ModelError for normalizers that make a text so much longer that it would fill the memory."""
    growth = 1.0
    for part in normalizers:
        if part["type"] == "Replace":
            pattern, content = part.get("pattern"), str(part.get("content", ""))
            replaced = "" if not isinstance(pattern, dict) else str(pattern.get("String", ""))
            growth *= max(1.0, len(content) / len(replaced)) if replaced else 1.0 + len(content)
        elif part["type"] == "Prepend":
            growth *= max(1, len(str(part.get("prepend", ""))) // 16)
        elif part["type"] == "Precompiled" and _longest_character(part.get("precompiled_charsmap")) > _LONGEST_CHARACTER:
            growth = float("inf")
    if growth > _MOST_GROWTH:
        raise damaged(file, f"has normalizers that may make a text more than {_MOST_GROWTH} times longer")


def _longest_character(charsmap: object) -> int:
    """The bytes of the longest text that SentencePiece's table puts in place of a character."""
    try:
        table = base64.b64decode(charsmap if isinstance(charsmap, str) else "", validate=True)
    except (binascii.Error, ValueError):
        return 0  # The library says what is wrong with it.
    start = 4 + int.from_bytes(table[:4], "little")
    return max(map(len, table[start:].split(b"\0")))


def _refuse_late_replacements(decoders: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Raise ModelError for decoders that rewrite the whole text, so that what was shown could change under later tokens."""
    fused = False
    for part in decoders:
        fused = fused or part["type"] in ("Fuse", "ByteLevel")
        pattern = part.get("pattern")
        single = isinstance(pattern, dict) and len(str(pattern.get("String", ""))) == 1
        if _is_regex(pattern):
            _refuse_unknown({"Regex"}, "pattern of a decoder", file)
        if fused and part["type"] == "Replace" and not single:
            raise ModelError(
                f"{file} has a decoder Replace after Fuse, which may change text that was already written",
                "use a model whose tokenizer decodes token by token",
            )


def _around(processors: Sequence[Mapping[str, Any]], file: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that post-processors put before and after a text, by what they say of a single one."""
    before: list[int] = []
    after: list[int] = []
    try:
        for part in processors:
            if part["type"] in ("BertProcessing", "RobertaProcessing"):
                before.insert(0, int(part["cls"][1]))
                after.append(int(part["sep"][1]))
            elif part["type"] == "TemplateProcessing":
                ids = {name: [int(token) for token in entry["ids"]] for name, entry in part["special_tokens"].items()}
                places = [place for place, entry in enumerate(part["single"]) if "Sequence" in entry]
                if len(places) != 1:
                    raise ModelError(f"{file} has a template that takes the text {len(places)} times", "use another tokenizer")
                tokens = [ids[entry["SpecialToken"]["id"]] if "SpecialToken" in entry else [] for entry in part["single"]]
                before[:0] = [token for entry in tokens[: places[0]] for token in entry]
                after += [token for entry in tokens[places[0] :] for token in entry]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise damaged(file, f"is not a tokenizer.json: its post-processor is incomplete ({first_line(error)})") from error
    return tuple(before), tuple(after)
