"""Our tokenizer where transformers wants one of its own, and transformers' LlamaTokenizer to compare with.

Importing this module is cheap; its functions import transformers, which imports torch.
"""

import json
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openllama_cli.errors import ModelError
from openllama_cli.models.tokenizer.base import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def as_transformers(tokenizer: Tokenizer) -> "PreTrainedTokenizerBase":
    """A transformers tokenizer that encodes and decodes with ours.

    For `model.generate(stop_strings=…, tokenizer=…)`, pipelines, data collators and the like. It adds exactly one BOS, never
    reads special tokens in text, pads on the left with the unknown token (or EOS) and an attention mask, and saves the
    tokenizer's own file, which LlamaTokenizer.from_pretrained and `open_tokenizer` both read.
    """
    wrapped: PreTrainedTokenizerBase = _wrapper_class()(tokenizer)
    return wrapped


def load_llama_tokenizer(path: Path) -> "PreTrainedTokenizerBase":
    """`LlamaTokenizer.from_pretrained(path)`, from files only: what transformers makes of a tokenizer.

    path: a folder with tokenizer.model or tokenizer.json. Raises ModelError when transformers cannot load it.
    """
    from transformers import LlamaTokenizer

    from openllama_cli.system.quiet import quiet_transformers

    try:
        with quiet_transformers():
            loaded: PreTrainedTokenizerBase = LlamaTokenizer.from_pretrained(str(path), local_files_only=True)
    except Exception as error:  # whatever an odd file makes it raise: the comparison cannot be made
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"transformers cannot load the tokenizer in {path}: {reason}", "leave out --check; olc itself does not need it"
        ) from error
    return loaded


@cache
def _wrapper_class() -> Any:
    import transformers

    # As Any: what mypy makes of the class differs between versions of transformers.
    base: Any = transformers.PreTrainedTokenizer

    class OlcTokenizer(base):  # type: ignore[misc]
        """See `as_transformers`."""

        vocab_files_names = {"vocab_file": "tokenizer.model", "tokenizer_file": "tokenizer.json"}  # noqa: RUF012
        model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012
        padding_side = "left"

        def __init__(self, inner: Tokenizer) -> None:
            self._inner = inner
            self._pieces = [_piece(inner, token) for token in range(inner.vocab_size)]
            self._ids = {piece: token for token, piece in enumerate(self._pieces)}
            eos = min((token for token in inner.eos_ids if token < inner.vocab_size), default=None)
            pad = inner.unk_id if inner.unk_id is not None else eos
            named = {"bos_token": inner.bos_id, "eos_token": eos, "unk_token": inner.unk_id, "pad_token": pad}
            super().__init__(
                # Text is text: without this, "<s>" typed by a user becomes BOS.
                split_special_tokens=True,
                clean_up_tokenization_spaces=False,
                **{name: self._pieces[token] for name, token in named.items() if token is not None},
            )
            self.init_inputs = ()  # the inner tokenizer: no part of a saved configuration

        def __reduce__(self) -> Any:
            return as_transformers, (self._inner,)

        @property
        def vocab_size(self) -> int:
            return len(self._pieces)

        @property
        def backend_tokenizer(self) -> Any:
            """What transformers looks at to match stop strings byte by byte instead of by whole characters."""
            return _Backend("ByteLevel" if getattr(self._inner, "byte_level", False) else "ByteFallback")

        def get_vocab(self) -> dict[str, int]:
            return dict(self._ids)

        def _tokenize(self, text: str, **_: Any) -> list[str]:
            return [self._pieces[token] for token in self._inner.encode(text, bos=False)]

        def tokenize(self, text: str, **_: Any) -> list[str]:
            return self._tokenize(text)

        def _convert_token_to_id(self, token: str) -> int | None:
            return self._ids.get(token, self._inner.unk_id)

        def _convert_id_to_token(self, index: int) -> str:
            return self._inner.piece(int(index))

        def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
            return self._inner.decode([token for token in map(self._convert_token_to_id, tokens) if token is not None])

        def build_inputs_with_special_tokens(self, token_ids_0: list[int], token_ids_1: list[int] | None = None) -> list[int]:
            start = [] if self._inner.bos_id is None else [self._inner.bos_id]
            return [*start, *token_ids_0, *(token_ids_1 or [])]

        def get_special_tokens_mask(
            self, token_ids_0: list[int], token_ids_1: list[int] | None = None, already_has_special_tokens: bool = False
        ) -> list[int]:
            if already_has_special_tokens:
                return [int(token in self._inner.special_ids) for token in token_ids_0]
            start = [] if self._inner.bos_id is None else [1]
            return [*start, *[0] * len(token_ids_0), *[0] * len(token_ids_1 or [])]

        def _decode(self, token_ids: Any, skip_special_tokens: bool = False, **_: Any) -> str:
            ids = [int(token) for token in (token_ids if isinstance(token_ids, Sequence) else [token_ids])]
            if skip_special_tokens:
                skipped = {*self.all_special_ids, *self._inner.special_ids}  # the padding too, which may be <unk>
                return self._inner.decode([token for token in ids if token not in skipped])
            text, done = "", 0
            for place, token in enumerate(ids):
                if token in self._inner.special_ids:
                    text += self._inner.decode_continuation(ids[:done], ids[done:place]) + self._pieces[token]
                    done = place + 1
            return text + self._inner.decode_continuation(ids[:done], ids[done:])

        def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
            name = (f"{filename_prefix}-" if filename_prefix else "") + _file_name(self._inner.path)
            target = Path(save_directory) / name
            if not target.exists() or not target.samefile(self._inner.path):
                shutil.copyfile(self._inner.path, target)
            return (str(target),)

        def save_pretrained(self, save_directory: Any, **options: Any) -> tuple[str, ...]:
            files = tuple(super().save_pretrained(save_directory, **options))
            # Ours is no class that transformers knows by name; the file is a Llama tokenizer's.
            for file in files:
                if file.endswith("tokenizer_config.json"):
                    config = json.loads(Path(file).read_text(encoding="utf-8"))
                    config |= {"tokenizer_class": "LlamaTokenizer", "add_bos_token": self._inner.bos_id is not None}
                    for ours in ("split_special_tokens", "backend", "added_tokens_decoder"):
                        config.pop(ours, None)
                    Path(file).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            return files

    return OlcTokenizer


class _Backend:
    """Says to StopStringCriteria how pieces spell bytes, as the decoder of a tokenizers tokenizer would."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    @property
    def decoder(self) -> "_Backend":
        return self

    def __getstate__(self) -> bytes:
        return json.dumps({"type": self._kind}).encode()


def _piece(tokenizer: Tokenizer, token: int) -> str:
    """The piece of an id; ids that a tokenizer leaves out get a name of their own, so that ids and pieces match one to one."""
    try:
        return tokenizer.piece(token)
    except ModelError:
        return f"<|unused {token}|>"


def _file_name(path: Path) -> str:
    return "tokenizer.json" if path.suffix == ".json" else "tokenizer.model"
