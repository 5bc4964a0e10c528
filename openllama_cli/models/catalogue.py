"""The models olc knows by a short name, with what is known of them before anything is downloaded.

Shapes and formats are those of the published OpenLLaMA checkpoints (https://github.com/openlm-research/open_llama).
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from openllama_cli.models.checkpoint.shape import LlamaShape

DEMO = "demo"


@dataclass(frozen=True)
class Entry:
    """One alias.

    repo_id: on the Hub; None for the demo model, which is in the package.
    description: names the release; the tokenizer of the first collapses repeated spaces, which spoils code.
    shape: None for the demo model, whose config.json is at hand.
    format: of the published weights.
    """

    alias: str
    repo_id: str | None
    description: str
    shape: LlamaShape | None
    format: Literal["bin", "safetensors"]

    @property
    def parameters(self) -> int | None:
        """Number of weights; None for the demo model."""
        return self.shape.parameters() if self.shape else None

    @property
    def download_bytes(self) -> int:
        """About how much is downloaded: two bytes a weight (float16), and half a megabyte of tokenizer."""
        return 2 * self.shape.parameters() + 500_000 if self.shape else 0


def _shape(hidden: int, intermediate: int, layers: int, heads: int) -> LlamaShape:
    """OpenLLaMA: as many key/value heads as heads, 32,000 pieces, 2,048 positions, separate output matrix."""
    return LlamaShape(hidden, intermediate, layers, heads, heads, hidden // heads, vocab=32000, context=2048)


_3B = _shape(3200, 8640, layers=26, heads=32)
_7B = _shape(4096, 11008, layers=32, heads=32)
_13B = _shape(5120, 13824, layers=40, heads=40)

_ENTRIES = (
    Entry(DEMO, None, "built in, for trying olc out", None, "safetensors"),
    Entry("3b-v2", "openlm-research/open_llama_3b_v2", "3B, second release, keeps spaces", _3B, "bin"),
    Entry("7b-v2", "openlm-research/open_llama_7b_v2", "7B, second release, keeps spaces", _7B, "bin"),
    Entry("3b", "openlm-research/open_llama_3b", "3B, first release, collapses spaces", _3B, "bin"),
    Entry("7b", "openlm-research/open_llama_7b", "7B, first release, collapses spaces", _7B, "bin"),
    Entry("13b", "openlm-research/open_llama_13b", "13B, first release, collapses spaces", _13B, "bin"),
)

CATALOGUE = MappingProxyType({entry.alias: entry for entry in _ENTRIES})
"""alias → Entry, in the order in which they are listed."""


def by_repo_id(repo_id: str) -> Entry | None:
    """The entry of a Hub id, if the catalogue has it."""
    return next((entry for entry in _ENTRIES if entry.repo_id == repo_id), None)


def suggest(name: str) -> str | None:
    """The alias that was probably meant by an unknown name ("open_llama_3b_v2", "7Bv2", "deno"), or None."""
    spellings = {}
    for entry in _ENTRIES:
        spellings[_plain(entry.alias)] = entry.alias
        if entry.repo_id is not None:
            spellings[_plain(entry.repo_id.partition("/")[2])] = entry.alias
            spellings[_plain(entry.repo_id)] = entry.alias
    from difflib import get_close_matches

    close = get_close_matches(_plain(name), spellings, n=1, cutoff=0.75)
    return spellings[close[0]] if close else None


def by_folder(path: str) -> str | None:
    """The alias of the model whose repository has the name that a path ends in, such as /data/open_llama_3b_v2; or None."""
    last = path.replace("\\", "/").rstrip("/").rpartition("/")[2].lower()
    return next((one.alias for one in _ENTRIES if one.repo_id is not None and one.repo_id.partition("/")[2] == last), None)


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())
