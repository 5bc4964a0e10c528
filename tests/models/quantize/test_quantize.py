"""Quantized copies: made once, the same from every format, noticed when damaged, done without where there is no room."""

import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openllama_cli.errors import ModelError, OlcError
from openllama_cli.models.loading.load import LoadedModel, load
from openllama_cli.models.opened import OpenedModel
from openllama_cli.models.quantize import copies as quantize_cache
from openllama_cli.models.quantize.copies import ABOUT, WEIGHTS, copy_folder, list_copies, remove_copies, weight_files
from openllama_cli.models.spec import ModelFolder, ModelSpec
from tests.support.forked import Forked
from tests.support.models.tiny_models import change_config, write_meta_llama, write_tiny_llama
from tests.support.progress import Recorder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "olc" / "quantised"


def opened(path: Path, method: Any = "int8", seen: Recorder | None = None) -> LoadedModel:
    seen = seen or Recorder()
    opened = OpenedModel.of(ModelFolder(path, "tiny"))
    return load(opened, ModelSpec(device="cpu", quantize=method), progress=seen, notice=seen.notices.append)


def logits(loaded: LoadedModel) -> list[float]:
    from openllama_cli.generation.forward.cache import KVCache
    from openllama_cli.generation.session import choose_forward

    found: list[float] = choose_forward(loaded).prefill([1, 50, 60], KVCache(3))[0].tolist()
    return found


def only_copy(cache: Path) -> Path:
    (folder,) = cache.iterdir()
    return folder


@pytest.mark.parametrize("method", ["int8", "int4"])
def test_the_second_start_quantizes_nothing(tiny_model: Path, cache: Path, method: Any) -> None:
    first, second = Recorder(), Recorder()
    expected = logits(opened(tiny_model, method, first))
    assert first.labels == [f"quantizing to {method}"]
    total, done = first.totals[first.labels[0]], sum(first.counts[first.labels[0]])
    assert total is not None
    assert 0.97 * total < done <= total, "norms are too small to be counted"
    assert logits(opened(tiny_model, method, second)) == expected
    assert second.labels == first.notices == second.notices == []
    assert {file.name for file in only_copy(cache).iterdir()} == {WEIGHTS, ABOUT}


def test_the_second_start_needs_no_transformers(tiny_model: Path) -> None:
    opened(tiny_model)
    code = """
import sys
for name in [name for name in sys.modules if name.split(".")[0] in ("openllama_cli", "transformers", "accelerate")]:
    del sys.modules[name]
sys.modules |= {"transformers": None, "accelerate": None}  # Who imports them gets an ImportError.
from openllama_cli.generation.session import load_model, describe
from openllama_cli.models.opened import open_model
from openllama_cli.models.spec import ModelSpec
spec = ModelSpec(sys.argv[1], device="cpu", quantize="int8")
print(describe(load_model(open_model(spec), spec))["dtype"])
sys.exit()
"""
    run = Forked(str(tiny_model), code=code)
    assert (run.wait(), run.out, run.err) == (0, b"int8\n", b"")


def test_every_format_gives_the_same_copy(tmp_path: Path, cache: Path) -> None:
    shape: dict[str, Any] = {"seed": 3, "heads": 4, "kv_heads": 2}
    folders = [
        write_tiny_llama(tmp_path / "safe", **shape),
        write_tiny_llama(tmp_path / "shards", sharded=True, **shape),
        write_tiny_llama(tmp_path / "bin", safe=False, sharded=True, **shape),
        write_meta_llama(tmp_path / "meta", shards=2, **shape),
    ]
    for folder in folders:
        opened(folder)
    copies = {(home / WEIGHTS).read_bytes() for home in cache.iterdir()}
    assert len(list(cache.iterdir())) == 4
    assert len(copies) == 1


def flip_a_bit(data: bytes) -> bytes:
    changed = bytearray(data)
    changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(changed)


def swap_two_words(data: bytes) -> bytes:
    """Two neighboring words of 8 bytes that differ change places, in the second half of the file."""
    place = next(at for at in range(len(data) // 16 * 8, len(data), 8) if data[at : at + 8] != data[at + 8 : at + 16])
    return data[:place] + data[place + 8 : place + 16] + data[place : place + 8] + data[place + 16 :]


# What happens to which file; None: it is removed.
DAMAGE: dict[str, tuple[str, Callable[[bytes], bytes] | None]] = {
    **{f"flipped bit {n}": (WEIGHTS, flip_a_bit) for n in range(3)},
    "truncated": (WEIGHTS, lambda data: data[:-5000]),
    "blocks swapped": (WEIGHTS, lambda data: data[:8192] + data[12288:16384] + data[8192:12288] + data[16384:]),
    "words swapped": (WEIGHTS, swap_two_words),
    "empty": (WEIGHTS, lambda data: b""),
    "no weights": (WEIGHTS, None),
    "no description": (ABOUT, None),
    "another description": (ABOUT, lambda data: json.dumps({"format": quantize_cache.FORMAT, "model": []}).encode()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_copy_is_noticed_and_made_again(tiny_model: Path, cache: Path, damage: str) -> None:
    opened(tiny_model)
    complete = (only_copy(cache) / WEIGHTS).read_bytes()
    name, change = DAMAGE[damage]
    file = only_copy(cache) / name
    if change is None:
        file.unlink()
    else:
        file.write_bytes(change(file.read_bytes()))
    seen, again = Recorder(), Recorder()
    opened(tiny_model, seen=seen)
    assert seen.notices == ["the quantized copy of the model is damaged; creating it again"]
    assert (only_copy(cache) / WEIGHTS).read_bytes() == complete
    opened(tiny_model, seen=again)
    assert again.notices == again.labels == []


def test_a_copy_without_a_hash_is_taken_once_its_checksum_agrees_and_gets_one(tiny_model: Path, cache: Path) -> None:
    opened(tiny_model)
    about = only_copy(cache) / ABOUT
    written = json.loads(about.read_text())
    about.write_text(json.dumps({key: value for key, value in written.items() if key not in ("digest", "stamp")}))
    seen = Recorder()
    opened(tiny_model, seen=seen)
    assert seen.notices == seen.labels == []
    assert json.loads(about.read_text()) == written


@pytest.mark.parametrize("method", ["int8", "int4"])
def test_without_room_for_a_copy_it_works_all_the_same(
    tiny_model: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    expected = logits(opened(tiny_model, method))
    remove_copies(list_copies())
    code = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from tests.models.quantize.test_quantize import logits, opened\n"
        "from tests.support.progress import Recorder\n"
        "seen = Recorder()\n"
        f"print(json.dumps([logits(opened(Path({str(tiny_model)!r}), {method!r}, seen)), seen.notices]))\n"
        "sys.exit()\n"
    )
    run = Forked(code=code, file_size=20_000)  # As a full disk, from the twentieth kB on.
    assert run.wait() == 0, run.err
    found, notices = json.loads(run.out)
    assert found == expected
    assert len(notices) == 1
    assert "cannot save the quantized model" in notices[0]
    assert "File too large" in notices[0]
    assert list(cache.iterdir()) == []
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    seen = Recorder()
    assert logits(opened(tiny_model, method, seen)) == expected
    assert ["Not a directory" in notice for notice in seen.notices] == [True]


def test_what_killed_builds_left_goes_with_time(tiny_model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = cache / ".old.partial", cache / ".new.partial"
    for partial in (old, new):
        partial.mkdir(parents=True)
        (partial / WEIGHTS).write_bytes(b"x")
    hours_ago = time.time() - 7200
    for path in (old / WEIGHTS, old):
        os.utime(path, (hours_ago, hours_ago))
    # The disk is full until it goes.
    usage = shutil.disk_usage(cache)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=0 if old.exists() else usage.free))
    opened(tiny_model)
    assert not old.exists()
    assert new.exists()
    assert [copy.model for copy in list_copies()] == ["tiny"]
    assert weight_files(tiny_model, "int8") == [Path(list_copies()[0].path) / WEIGHTS]
    assert weight_files(tiny_model, "int4") == weight_files(tiny_model.parent, "int8") == []


def test_copies_are_listed_and_removed(tmp_path: Path, cache: Path) -> None:
    tmp_model = write_tiny_llama(tmp_path / "model")
    opened(tmp_model)
    opened(tmp_model, "int4")
    copies = list_copies()
    assert [(copy.model, copy.method, copy.folder) for copy in copies] == [
        ("tiny", "int4", str(tmp_model.resolve())),
        ("tiny", "int8", str(tmp_model.resolve())),
    ]
    sizes = [sum(file.stat().st_size for file in Path(copy.path).iterdir()) for copy in copies]
    assert [copy.bytes for copy in copies] == sizes
    assert remove_copies(copies[:1]) == sizes[0]
    assert list_copies() == copies[1:]
    weights = tmp_model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    opened(tmp_model)
    assert len(list_copies()) == 2, "an edited model has a copy of its own"
    assert remove_copies(copies) == sizes[1]


def test_a_file_of_the_hubs_cache_is_known_by_its_checksum(tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    (blobs / ("a" * 64)).write_bytes(b"x")
    link = tmp_path / "model.safetensors"
    link.symlink_to(blobs / ("a" * 64))
    before = copy_folder([link])
    (blobs / ("a" * 64)).write_bytes(b"y")  # It would not do to change it; the name is what counts.
    assert copy_folder([link]) == before
    (blobs / ("b" * 64)).write_bytes(b"y")
    link.unlink()
    link.symlink_to(blobs / ("b" * 64))
    assert copy_folder([link]) != before


def test_models_of_another_arithmetic_are_refused(tmp_model: Path, cache: Path) -> None:
    change_config(tmp_model, hidden_act="gelu")
    with pytest.raises(ModelError, match="the activation gelu") as refused:
        opened(tmp_model)
    assert refused.value.remedy == "leave out --quantize"
    assert not cache.exists()


def test_weights_that_changed_since_they_were_inspected_are_an_error(tmp_model: Path, cache: Path) -> None:
    opened = OpenedModel.of(ModelFolder(tmp_model, "tiny"))
    weights = tmp_model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(OlcError):
        load(opened, ModelSpec(device="cpu", quantize="int8"))
    assert list(cache.iterdir()) == []


# A tiny model first, once to be quantized and once to be opened: a fork maps pages of libraries anew, which are memory too.
PEAK = """
import os, sys
from pathlib import Path
from openllama_cli.generation.session import choose_forward
from openllama_cli.models.checkpoint import tensors
from openllama_cli.models.quantize import load
from tests.models.quantize.test_quantize import opened

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024

tensors.READ_BEFORE_REOPENING = load._PIECE = 8 << 20
large, small, method = sys.argv[1:]
cache = os.environ["XDG_CACHE_HOME"]
os.environ["XDG_CACHE_HOME"] = cache + "-of-the-small-one"
for _ in range(2):
    choose_forward(opened(Path(small), method))
os.environ["XDG_CACHE_HOME"] = cache
Path("/proc/self/clear_refs").write_text("5")  # The peak so far is forgotten.
before = memory("VmRSS")
choose_forward(opened(Path(large), method))
print(memory("VmHWM") - before)
sys.exit()
"""
LAYERS = 16


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = {"hidden": 512, "heads": 8, "kv_heads": 8, "intermediate": 1376, "layers": LAYERS, "dtype": "bfloat16"}
    return write_tiny_llama(tmp_path_factory.mktemp("large") / "model", **shape)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
@pytest.mark.parametrize(("method", "bytes_each"), [("int8", 1.0), ("int4", 0.5625)])
def test_memory_holds_the_result_and_one_layer(
    large: Path, tiny_model: Path, method: str, bytes_each: float, cache: Path
) -> None:
    stored = (large / "model.safetensors").stat().st_size
    layer = stored / LAYERS
    result = stored / 2 * bytes_each
    assert stored > 100e6
    for start in ("first", "second"):
        run = Forked(str(large), str(tiny_model), method, code=PEAK)
        assert run.wait() == 0, run.err
        # Besides: up to 8 MiB of the mapped original, or of the copy, and what kernels allocate. The original would not fit.
        assert int(run.out) < result + 2 * layer + 50e6 < result + stored - 30e6, start
    assert len(list(cache.iterdir())) == 1
