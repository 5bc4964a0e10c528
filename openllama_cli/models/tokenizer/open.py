""" """

from pathlib import Path

from openllama_cli.models.tokenizer import files as tokenizer_files
from openllama_cli.models.tokenizer.base import Tokenizer
from openllama_cli.models.tokenizer.sentencepiece_model import SentencePieceTokenizer


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a model folder (or of a tokenizer file): `tokenizer.model`, else `tokenizer.json`.

    In Meta's download layout tokenizer.model may lie in the parent folder. Raises ModelError naming what is wrong
    with it.
    """
    file = tokenizer_files.locate(path)
    folder = path if path.is_dir() else file.parent
    if file.suffix == ".json":
        from openllama_cli.models.tokenizer.tokenizer_json import JsonTokenizer

        return JsonTokenizer(file, folder)
    return SentencePieceTokenizer(file, folder)
