"""What stands beside a tokenizer: tokenizer_config.json, special_tokens_map.json and added_tokens.json, read as transformers 5
reads them. One table says which settings change results.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openllama_cli.errors import ModelError
from openllama_cli.models.model_files import damaged, read_object

CONFIG, MAP, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"

HONORED = {
    "add_bos_token",  # of a tokenizer.model; a tokenizer.json has its post-processor, which transformers 5 asks alone
    "add_prefix_space",  # of a tokenizer.model; a tokenizer.json has its pre-tokenizer
    "added_tokens_decoder",
    "additional_special_tokens",
    "bos_token",
    "eos_token",
    "extra_special_tokens",
    "legacy",  # whether a space is put in front of text after an added token
    "tokenizer_class",
    "unk_token",
}
# A completion goes on where its prompt ends, and what a user typed as text is text.
SWITCHED_OFF = {"add_eos_token", "split_special_tokens", "max_length", "truncation", "padding", "stride"}
# Of decoders that rewrite the whole text: refused where transformers would do it, for other models than BPE.
REFUSED = {"clean_up_tokenization_spaces", "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"}
# All others, such as chat_template and model_max_length, change no ids and no text.

FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")

# Their ids are not the model file's own: they are shifted, or put in another order.
_SHIFTED = {"BarthezTokenizer", "CamembertTokenizer", "MBartTokenizer", "MBart50Tokenizer", "NllbTokenizer", "PLBartTokenizer"}
_SHIFTED |= {"PegasusTokenizer", "SeamlessM4TTokenizer", "XGLMTokenizer", "XLMRobertaTokenizer", "XLMTokenizer"}
_SHIFTED |= {"BigBirdPegasusTokenizer", "DebertaV2Tokenizer", "ReformerTokenizer", "CpmTokenizer"}


@dataclass(frozen=True)
class AddedToken:
    """A token that was added after training, with the flags of the `tokenizers` library."""

    id: int
    content: str
    flags: Mapping[str, bool]

    @property
    def special(self) -> bool:
        return self.flags["special"]


@dataclass(frozen=True)
class Settings:
    """The settings of a tokenizer that change ids or text; None where a file does not say.

    named: "bos_token" → its text, and so on. added: by id. names: ids that
    only have a name, from an added_tokens.json that transformers does not read. clean_up: the key that asks for it.
    """

    named: Mapping[str, str]
    extra: frozenset[str]
    added: tuple[AddedToken, ...]
    names: Mapping[int, str]
    tokenizer_class: str | None
    add_bos: bool | None
    add_eos: bool | None
    add_prefix_space: bool | None
    legacy: bool | None
    clean_up: bool
    clean_up_bpe: bool


def read_settings(folder: Path) -> Settings:
    """Read the settings in a model's folder. Raises ModelError naming the file and the key that cannot be understood."""
    return settings_of(folder, *(read_object(folder / name) for name in (CONFIG, MAP, ADDED)))


def settings_of(folder: Path, config: Mapping[str, Any], map_: Mapping[str, Any], added: Mapping[str, Any]) -> Settings:
    """The settings that these three files say. folder: where they are, for errors."""
    decoder = config.get("added_tokens_decoder")
    named = _named(config, folder / CONFIG)
    others = _named(map_, folder / MAP)
    # transformers reads the older two files only where there is no added_tokens_decoder, and there they count more.
    named = others | named if decoder is not None else named | others
    extra = _extra(config) | _extra(map_)
    numbered = {_id(token, text, folder / ADDED): text for text, token in added.items()}
    if decoder is not None:
        tokens = _decoder(decoder, folder / CONFIG)
        known = {one.id for one in tokens}
        names = {token: text for token, text in numbered.items() if token not in known}
    else:
        special = extra | set(named.values())
        tokens = [AddedToken(token, text, _flags(special=text in special)) for token, text in numbered.items()]
        names = {}
    for text in [*named.values(), *extra, *(token.content for token in tokens), *names.values()]:
        _refuse_surrogates(text, folder)
    class_ = config.get("tokenizer_class")
    return Settings(
        named=named,
        extra=frozenset(extra),
        added=tuple(sorted(tokens, key=lambda token: token.id)),
        names=names,
        tokenizer_class=None if class_ is None else str(class_).removesuffix("Fast"),
        add_bos=_bool(config, "add_bos_token", folder),
        add_eos=_bool(config, "add_eos_token", folder),
        add_prefix_space=_bool(config, "add_prefix_space", folder),
        legacy=_bool(config, "legacy", folder),
        clean_up=bool(config.get("clean_up_tokenization_spaces")),
        clean_up_bpe=bool(config.get("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output")),
    )


def beyond(settings: Settings, rows: int, known: Collection[str] = ()) -> tuple[str, ...]:
    """A note on added tokens that text would become in transformers, if their ids had rows in the model's embedding.

    rows: of the embedding. known: contents that the tokenizer has itself.
    """
    found = [one for one in settings.added if one.id >= rows and one.content and not one.special and one.content not in known]
    if not found:
        return ()
    few = ", ".join(f"{_short(one.content)} ({one.id})" for one in found[:3]) + ", …" * (len(found) > 3)
    return (f"added tokens whose ids are beyond the model's {rows} embeddings stay plain text: {few}",)


def refuse_clean_up(settings: Settings, model: str, folder: Path) -> None:
    """Raise ModelError where transformers would take spaces before punctuation out of decoded text.

    It does so for the whole text, so that what was shown already would change; for BPE it ignores the setting.
    """
    if settings.clean_up and (model != "BPE" or settings.clean_up_bpe):
        raise ModelError(
            f"{folder / CONFIG}: clean_up_tokenization_spaces is true, which olc does not do for a {model} tokenizer",
            "make it false, and spaces before punctuation stay as the model writes them",
        )


def refuse_shifted(settings: Settings, folder: Path) -> None:
    """Raise ModelError for a tokenizer_class that gives other ids than its SentencePiece model does."""
    if settings.tokenizer_class in _SHIFTED:
        raise ModelError(
            f"{folder / CONFIG}: a {settings.tokenizer_class} gives its SentencePiece model's pieces other ids",
            "save it as a tokenizer.json with transformers, and remove tokenizer.model",
        )


def _named(values: Mapping[str, Any], file: Path) -> dict[str, str]:
    """The special tokens that have a name: "bos_token" → "<s>". A value is a text, or an object with it as content."""
    found = {}
    for key in ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"):
        value = values.get(key)
        text = value.get("content") if isinstance(value, dict) else value
        if value is None:
            continue
        if not isinstance(text, str):
            raise ModelError(f"{file}: {key} is {_short(value)}, not a token's text", 'make it a text such as "</s>", or null')
        found[key] = text
    return found


def _extra(values: Mapping[str, Any]) -> set[str]:
    """Contents of special tokens without a name of their own."""
    extra = [values.get(key) for key in ("additional_special_tokens", "extra_special_tokens")]
    lists = [value.values() if isinstance(value, dict) else value for value in extra if isinstance(value, (list, dict))]
    tokens = [token for values_ in lists for token in values_]
    texts = [token.get("content") if isinstance(token, dict) else token for token in tokens]
    return {text for text in texts if isinstance(text, str)}


def _decoder(value: Any, file: Path) -> list[AddedToken]:
    if not isinstance(value, dict):
        raise damaged(file, "has an added_tokens_decoder that is not an object")
    tokens = []
    for key, entry in value.items():
        content = entry.get("content") if isinstance(entry, dict) else None
        if not isinstance(content, str):
            raise ModelError(f"{file}: added_tokens_decoder has no text for {_short(key)}", 'give it one: {"content": "…"}')
        unknown = sorted(entry.keys() - {"content", "id", "__type", *FLAGS})
        if unknown:
            raise ModelError(
                f"{file}: the added token {_short(content)} has a setting {_short(unknown[0])}, which olc does not know",
                "remove the setting if it does not matter",
            )
        given = {flag: bool(entry[flag]) for flag in FLAGS if flag in entry}
        tokens.append(AddedToken(_id(key, content, file), content, _flags(**given)))
    return tokens


def _flags(*, special: bool = False, **given: bool) -> dict[str, bool]:
    """All flags of an added token; the library normalizes before it looks for those that are not special."""
    return {**dict.fromkeys(FLAGS, False), "normalized": not special, "special": special, **given}


def _id(token: Any, text: str, file: Path) -> int:
    if isinstance(token, bool) or not re.fullmatch(r"[0-9]{1,9}", str(token)):
        raise ModelError(
            f"{file}: the added token {_short(text)} has the id {_short(token)}, not a number",
            "give it its row in the model's embedding",
        )
    return int(token)


def _bool(config: Mapping[str, Any], key: str, folder: Path) -> bool | None:
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise ModelError(f"{folder / CONFIG}: {key} is {_short(value)}, not true or false", "make it true, false or null")
    return value


def _refuse_surrogates(text: str, folder: Path) -> None:
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ModelError(
            f"{folder}: the token {_short(text)} has half of a character, a lone surrogate",
            f"mend it in {CONFIG}, {MAP} or {ADDED}",
        )


def _short(value: object) -> str:
    return ascii(value)[:60]
