"""What lies beside a model's weights and would change its texts in other programs, but not in olc: each is said by name."""

import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from openllama_cli.models.adapters.config import CONFIG
from openllama_cli.models.model_files import read_object
from openllama_cli.models.spec import FoundAdapter, ModelFolder

# Of generation_config.json, what `model.generate` would do to the tokens that a model chooses, beside what olc has options for
# (docs/decoding.md: the options and their defaults hold, whatever a checkpoint suggests). Off where they are 0, null or empty …
_PROCESSORS = (
    *("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "sequence_bias", "forced_bos_token_id", "stop_strings"),
    *("forced_eos_token_id", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "min_length", "min_new_tokens"),
    *("exponential_decay_length_penalty", "epsilon_cutoff", "eta_cutoff", "top_h", "penalty_alpha", "dola_layers"),
    *("watermarking_config", "constraints", "force_words_ids", "diversity_penalty", "token_healing"),
)
# … and these where they are 1.
_OFF_AT_ONE = ("num_beams", "num_beam_groups", "typical_p", "guidance_scale", "encoder_repetition_penalty")


def adapter_beside(model: Path, adapters: Iterable[FoundAdapter]) -> Path | None:
    """The folder of a model, or of a GGUF file, if an adapter lies there that is none of those that are applied."""
    folder = model if model.is_dir() else model.parent
    if not (folder / CONFIG).is_file() or any(adapter.path.resolve() == folder.resolve() for adapter in adapters):
        return None
    return folder


def not_applied(model: ModelFolder) -> Iterator[str]:
    """A line for each thing in a model's folder that olc leaves aside. Raises ModelError for a generation_config.json that
    is not valid JSON.
    """
    folder, beside = model.path, adapter_beside(model.path, model.adapters)
    if beside is not None:
        yield (
            f"olc: {beside / CONFIG} describes an adapter, which is not applied: the model runs as its own weights are "
            f"(--adapter {shlex.quote(str(beside))} applies it)"
        )
    settings = read_object(folder / "generation_config.json")
    asked = [key for key in _PROCESSORS if settings.get(key)]
    asked += [key for key in _OFF_AT_ONE if settings.get(key) not in (None, 0, 1, False)]
    if asked:
        yield f"olc: {folder / 'generation_config.json'} asks for {', '.join(sorted(asked))}, which olc does not apply"
