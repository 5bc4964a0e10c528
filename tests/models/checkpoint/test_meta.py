"""Meta's format: joined from any number of files, it is the same model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from openllama_cli.errors import ModelError
from openllama_cli.models.checkpoint import tensors
from openllama_cli.models.checkpoint.inspect import inspect
from openllama_cli.models.checkpoint.tensors import TensorSource
from openllama_cli.models.loading.load import LoadedModel, load
from openllama_cli.models.opened import OpenedModel
from openllama_cli.models.spec import ModelFolder, ModelSpec
from tests.support.models.tiny_models import tiny_config, tiny_state_dict, write_meta_llama, write_tiny_llama

IDS = torch.tensor([[1, 5, 9, 77, 200, 5, 5, 399, 31]])


def load_float32(path: Path) -> LoadedModel:
    return load(OpenedModel.of(ModelFolder(path, path.name)), ModelSpec(dtype="float32", device="cpu"))


@pytest.mark.parametrize(
    ("shards", "heads", "kv_heads", "split_vocabulary"),
    [(1, 4, 2, True), (2, 4, 2, False), (2, 4, 4, True), (4, 8, 4, False)],
)
def test_any_number_of_files_is_the_hugging_face_model(
    tmp_path: Path, shards: int, heads: int, kv_heads: int, split_vocabulary: bool
) -> None:
    shape = {"heads": heads, "kv_heads": kv_heads, "seed": 3}
    original = load_float32(write_tiny_llama(tmp_path / "hf", **shape))
    meta = load_float32(write_meta_llama(tmp_path / "meta", shards=shards, split_vocabulary=split_vocabulary, **shape))
    expected, found = original.model(IDS).logits, meta.model(IDS).logits
    assert expected.std() > 0.5
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_logits_are_those_of_the_published_model_code(tmp_path: Path) -> None:
    """The published forward pass, with its complex rotary embedding, runs on Meta's own weights: olc answers the same."""
    folder = write_meta_llama(tmp_path, heads=4, kv_heads=2, seed=5)
    expected = published_forward(folder, IDS[0])
    torch.testing.assert_close(load_float32(folder).model(IDS).logits[0], expected, atol=1e-4, rtol=0)


def test_tied_embeddings(tmp_path: Path) -> None:
    model = load_float32(write_meta_llama(tmp_path, tie=True)).model
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_weights_keep_their_bits_also_when_files_are_reopened_between_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensors, "READ_BEFORE_REOPENING", 1)
    opened = []
    real_load = torch.load
    monkeypatch.setattr(torch, "load", lambda file, **options: opened.append(file) or real_load(file, **options))
    state = tiny_state_dict(tiny_config(dtype="bfloat16"))
    source = TensorSource(inspect(write_meta_llama(tmp_path, shards=2, dtype="bfloat16")))
    assert all(torch.equal(source.get(name), weight) for name, weight in state.items())
    assert len(opened) > 10


@pytest.mark.parametrize(
    ("params", "context"),
    [
        ({}, 2048),
        ({"norm_eps": 1e-5}, 4096),
        ({"norm_eps": 1e-5, "rope_theta": 500000.0}, 8192),
        ({"norm_eps": 1e-5, "rope_theta": 1000000.0}, 16384),
        ({"norm_eps": 1e-5, "rope_theta": 500000.0, "use_scaled_rope": True, "rope_scaling_factor": 8}, 131072),
        ({"max_seq_len": 77}, 77),
    ],
)
def test_the_context_is_that_of_the_release(tmp_path: Path, params: dict[str, Any], context: int) -> None:
    assert inspect(write_meta_llama(tmp_path, params=params)).shape.context == context


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"n_layers": 1}, "weights that are not a Llama's"),
        ({"n_layers": 3}, "has no weight layers.2.attention.wq.weight"),
        ({"n_layers": 0}, "n_layers 0"),
        ({"dim": 33}, "4 heads and 2 key/value heads for a dim of 33"),
        ({"dim": 64}, "32, but params.json implies"),
        ({"n_kv_heads": 4}, "self_attn.k_proj.weight has shape 16 × 32, but params.json implies 32 × 32"),
        ({"norm_eps": "small"}, "norm_eps 'small'"),
        ({"use_scaled_rope": True}, "no rope_scaling_factor"),
        ({"quantization_args": {"scheme": "int4"}}, "quantized"),
    ],
)
def test_params_that_do_not_fit_the_weights_are_refused(tmp_path: Path, params: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError) as caught:
        inspect(write_meta_llama(tmp_path, params=params))
    assert said in caught.value.cause


def test_files_that_are_not_of_one_model_are_refused(tmp_path: Path) -> None:
    folder = write_meta_llama(tmp_path / "a", shards=2)
    other = write_meta_llama(tmp_path / "b", shards=2, hidden=64, kv_heads=4)
    (folder / "consolidated.01.pth").write_bytes((other / "consolidated.01.pth").read_bytes())
    with pytest.raises(ModelError, match="does not match the other shards"):
        inspect(folder)


@pytest.mark.parametrize(
    "pattern", ["consolidated.{:02d}.pt", "consolidated.{:02d}-of-02.pth", "consolidated-{:02d}-of-02.pth"]
)
def test_other_names_of_the_files_are_known(tmp_path: Path, pattern: str) -> None:
    folder = write_meta_llama(tmp_path, shards=2)
    for number in range(2):
        (folder / f"consolidated.{number:02d}.pth").rename(folder / pattern.format(number))
    source = TensorSource(inspect(folder))
    assert all(torch.equal(source.get(name), weight) for name, weight in tiny_state_dict(tiny_config()).items())
    (folder / pattern.format(1)).unlink()
    with pytest.raises(ModelError, match=pattern.format(1).replace(".", r"\.")):
        inspect(folder)


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ((1,), "has 3 of 4 shards|no consolidated.01.pth"),
        ((2, 3), "has 2 of 4 shards; missing: consolidated.02.pth, consolidated.03.pth"),
    ],
)
def test_files_that_are_missing_are_named(tmp_path: Path, lost: tuple[int, ...], said: str) -> None:
    folder = write_meta_llama(tmp_path, shards=4, heads=8, kv_heads=4, layers=1)
    for number in lost:
        (folder / f"consolidated.{number:02d}.pth").unlink()
    with pytest.raises(ModelError, match=said):
        inspect(folder)


@pytest.mark.parametrize("link", [True, False])
def test_one_shard_under_two_names_is_noticed(tmp_path: Path, link: bool) -> None:
    folder = write_meta_llama(tmp_path, shards=2, layers=1)
    first, second = folder / "consolidated.00.pth", folder / "consolidated.01.pth"
    content = first.read_bytes()
    second.unlink()
    if link:
        second.hardlink_to(first)
    else:
        second.write_bytes(content)
    with pytest.raises(ModelError, match="one shard under two names"):
        inspect(folder)


def test_shards_beside_the_only_one_without_a_number_are_named(tmp_path: Path) -> None:
    folder = write_meta_llama(tmp_path, shards=2)
    (folder / "consolidated.01.pth").unlink()
    (folder / "consolidated.00.pth").rename(folder / "consolidated.pth")
    with pytest.raises(ModelError, match=r"missing: consolidated\.01\.pth"):
        inspect(folder)


def published_forward(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    """Logits (positions, vocabulary) in the words of https://github.com/meta-llama/llama/blob/main/llama/model.py."""
    params = json.loads((folder / "params.json").read_text())
    weights = torch.load(folder / "consolidated.00.pth", weights_only=True)
    heads, kv_heads, dim = params["n_heads"], params["n_kv_heads"], params["dim"]
    size, length = dim // heads, len(ids)
    frequencies = 1.0 / 10000.0 ** (torch.arange(0, size, 2) / size)
    angles = torch.outer(torch.arange(length), frequencies)
    rotation = torch.polar(torch.ones_like(angles), angles)[:, None]
    mask = torch.full((length, length), float("-inf")).triu(1)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + params["norm_eps"]) * weights[name]

    def rotate(x: torch.Tensor) -> torch.Tensor:
        return torch.view_as_real(torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * rotation).flatten(-2)

    h = weights["tok_embeddings.weight"][ids]
    for n in range(params["n_layers"]):

        def w(name: str, n: int = n) -> torch.Tensor:
            return weights[f"layers.{n}.{name}.weight"].T

        x = norm(h, f"layers.{n}.attention_norm.weight")
        queries = rotate((x @ w("attention.wq")).view(length, heads, size)).transpose(0, 1)
        keys = rotate((x @ w("attention.wk")).view(length, kv_heads, size)).transpose(0, 1)
        values = (x @ w("attention.wv")).view(length, kv_heads, size).transpose(0, 1)
        keys, values = (part.repeat_interleave(heads // kv_heads, 0) for part in (keys, values))
        scores = torch.softmax(queries @ keys.transpose(1, 2) / size**0.5 + mask, -1)
        h = h + (scores @ values).transpose(0, 1).reshape(length, dim) @ w("attention.wo")
        x = norm(h, f"layers.{n}.ffn_norm.weight")
        gate = torch.nn.functional.silu(x @ w("feed_forward.w1")) * (x @ w("feed_forward.w3"))
        h = h + gate @ w("feed_forward.w2")
    return norm(h, "norm.weight") @ weights["output.weight"].T
