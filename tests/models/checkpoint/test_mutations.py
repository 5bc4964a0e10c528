"""Damaged and hostile model files of all kinds: each opens to the right weights, or is refused in two lines, soon and in little
memory.

    python -m tests.models.checkpoint.test_mutations --count 5000 [--seed N] [--kind NAME]

tries thousands and prints what went wrong; the tests try a few of each.
"""

import argparse
import contextlib
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
import torch
from transformers import LlamaTokenizer

from openllama_cli.errors import OlcError
from openllama_cli.models.checkpoint.inspect import check_vocabulary, inspect
from openllama_cli.models.checkpoint.tensors import TensorSource
from openllama_cli.models.checkpoint.torch_files import check_storages
from openllama_cli.models.tokenizer.open import open_tokenizer
from tests.support.models.mutations import (
    Mutation,
    archive_entry,
    archived_pickle,
    bytes_anywhere,
    json_value,
    safetensors_header,
)
from tests.support.models.tiny_models import tiny_config, tiny_state_dict, write_meta_llama, write_tiny_llama

IN_TESTS = 20
# Of one file, in seconds of CPU and in bytes beyond what the process has.
LONGEST, ROOM = 3.0, 1 << 30
_SHAPE: dict[str, Any] = {"layers": 1, "heads": 4, "kv_heads": 2}
_JSON = (json_value, json_value, bytes_anywhere)
_ARCHIVE = (archive_entry, archived_pickle, bytes_anywhere)


class Kind(NamedTuple):
    """A kind of file: the folder that it is part of, its name there, and how it is damaged."""

    folder: str
    file: str
    mutations: tuple[Mutation, ...]


KINDS = {
    "safetensors": Kind("safetensors", "model.safetensors", (safetensors_header, safetensors_header, bytes_anywhere)),
    "safetensors index": Kind("safetensors shards", "model.safetensors.index.json", _JSON),
    "bin": Kind("bin", "pytorch_model.bin", _ARCHIVE),
    "bin of torch before 1.6": Kind("legacy", "pytorch_model.bin", (bytes_anywhere,)),
    "bin index": Kind("bin shards", "pytorch_model.bin.index.json", _JSON),
    "Meta shard": Kind("meta", "consolidated.01.pth", _ARCHIVE),
    "params.json": Kind("meta", "params.json", _JSON),
    "config.json": Kind("safetensors", "config.json", _JSON),
    "generation_config.json": Kind("safetensors", "generation_config.json", _JSON),
    "tokenizer.model": Kind("safetensors", "tokenizer.model", (bytes_anywhere,)),
    "tokenizer.json": Kind("fast", "tokenizer.json", _JSON),
    "tokenizer_config.json": Kind("safetensors", "tokenizer_config.json", _JSON),
}


def write_folders(where: Path) -> dict[str, Path]:
    """One small model, as folders of all formats."""
    folders = {
        "safetensors": write_tiny_llama(where / "safetensors", **_SHAPE),
        "safetensors shards": write_tiny_llama(where / "safetensors shards", sharded=True, **_SHAPE),
        "bin": write_tiny_llama(where / "bin", safe=False, **_SHAPE),
        "bin shards": write_tiny_llama(where / "bin shards", safe=False, sharded=True, **_SHAPE),
        "legacy": write_tiny_llama(where / "legacy", safe=False, **_SHAPE),
        "meta": write_meta_llama(where / "meta", shards=2, **_SHAPE),
    }
    folders["fast"] = write_tiny_llama(where / "fast", **_SHAPE)
    LlamaTokenizer.from_pretrained(folders["fast"]).save_pretrained(folders["fast"])
    (folders["fast"] / "tokenizer.model").unlink()
    torch.save(weights(), folders["legacy"] / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    return folders


def weights() -> dict[str, torch.Tensor]:
    return tiny_state_dict(tiny_config(**_SHAPE))


def use(folder: Path) -> dict[str, torch.Tensor]:
    """Open a folder as olc does, and read its weights."""
    checkpoint = inspect(folder)
    tokenizer = open_tokenizer(folder, config_json=checkpoint.config_json)
    check_vocabulary(tokenizer, checkpoint)
    tokenizer.decode(tokenizer.encode("the blue whale"))
    check_storages(checkpoint.storages)
    source = TensorSource(checkpoint)
    found = {name: source.get(name).clone() for name in checkpoint.tensors}
    assert all(tuple(found[name].shape) == shape for name, shape in checkpoint.shape.tensors().items())
    return found


def attempt(kind: Kind, folder: Path, seed: int, sound: dict[str, torch.Tensor]) -> str:
    """Damage a file, use its folder, and mend it again. Returns what came of it; raises for what must not happen."""
    file, chance = folder / kind.file, Random(seed)
    content = file.read_bytes()
    mutation = kind.mutations[seed % len(kind.mutations)]
    try:
        file.write_bytes(mutation(content, chance))
        started = time.process_time()
        found, refusal = None, None
        try:
            found = use(folder)
        except OlcError as error:
            refusal = error
        seconds = time.process_time() - started
        assert seconds < LONGEST, f"{seconds:.1f} s"
        if refusal is not None:
            assert "\n" not in refusal.cause + refusal.remedy, "more than two lines"
            assert refusal.remedy, "no remedy"
            assert len(refusal.cause + refusal.remedy) < 1500, "long lines"
            assert "MemoryError" not in refusal.cause, "too much memory"
        # Bytes that changed are noticed where there are checksums, and where they are not the weights'.
        elif kind.file.endswith(".json") or (mutation is bytes_anywhere and kind.folder in ("bin", "meta")):
            assert found is not None
            assert all(torch.equal(found[name], sound[name]) for name in sound), "other weights"
        return "opened" if refusal is None else "refused"
    finally:
        file.write_bytes(content)


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Let the process have ROOM more bytes of address space than it has."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    if not sys.platform.startswith("linux"):
        yield
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_folders(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_opens_to_the_right_weights_or_is_refused(folders: dict[str, Path], name: str) -> None:
    kind, sound = KINDS[name], weights()
    use_sound = name != "bin of torch before 1.6"
    if use_sound:
        assert use(folders[kind.folder]).keys() == sound.keys()
    with little_memory():
        outcomes = [attempt(kind, folders[kind.folder], seed, sound) for seed in range(IN_TESTS)]
    assert outcomes.count("refused") > 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--count", type=int, default=5000, help="mutations in all")
    parser.add_argument("--seed", type=int, default=1_000_000, help="the first seed")
    parser.add_argument("--kind", choices=KINDS, action="append", help="only this kind of file")
    options = parser.parse_args()
    where = Path(tempfile.mkdtemp(prefix="olc-mutations-"))
    failures = 0
    try:
        folders, sound, kinds = write_folders(where), weights(), options.kind or list(KINDS)
        with little_memory():
            for name in kinds:
                outcomes: dict[str, int] = {}
                for seed in range(options.seed, options.seed + options.count // len(kinds)):
                    try:
                        outcome = attempt(KINDS[name], folders[KINDS[name].folder], seed, sound)
                    except BaseException as error:
                        if isinstance(error, KeyboardInterrupt):
                            raise
                        outcome = "WRONG"
                        lines = "".join(traceback.format_exception(error)).splitlines()
                        print(f"{name}, seed {seed}:", *lines[-6:], sep="\n    ")
                    outcomes[outcome] = outcomes.get(outcome, 0) + 1
                failures += outcomes.get("WRONG", 0)
                print(f"{name}: {outcomes}", flush=True)
    finally:
        shutil.rmtree(where, ignore_errors=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
