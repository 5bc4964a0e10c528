"""Adapters merged: equal to peft's own `merge_and_unload` in float32, for everything that a LoRA of a Llama can hold."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from openllama_cli.batch.journal.header import differences
from openllama_cli.devices.planning.placement import look_up
from openllama_cli.errors import HubError, ModelError
from openllama_cli.models.adapters import find as adapters
from openllama_cli.models.checkpoint.convert import convert
from openllama_cli.models.checkpoint.tensors import TensorSource
from openllama_cli.models.details import details
from openllama_cli.models.find import find, resolve
from openllama_cli.models.fingerprint import opened_fingerprint
from openllama_cli.models.loading.load import load
from openllama_cli.models.opened import OpenedModel, open_model
from openllama_cli.models.quantize.copies import list_copies
from openllama_cli.models.quantize.rounding import NativeLayout
from openllama_cli.models.quantize.weights import quantized
from openllama_cli.models.spec import ModelSpec
from openllama_cli.models.tokenizer.open import open_tokenizer
from openllama_cli.serve.local_socket import socket_path
from tests.support.forked import fork
from tests.support.models.gguf_files import write_gguf
from tests.support.models.tiny_models import VOCAB, change_config, load_llama, write_tiny_llama

# What peft says of itself and its settings.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
LAYERS = ["q_proj", "v_proj", "down_proj"]


def trained(folder: Path, base: Path, *, rows: int | None = None, seed: int = 0, **config: Any) -> Path:
    """An adapter with random weights, saved by peft."""
    import peft  # It takes seconds, which only a run of these tests should cost.

    model = load_llama(base)
    if rows is not None:
        model.resize_token_embeddings(rows)
        model.requires_grad_(False)
    tuned = peft.get_peft_model(model, peft.LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": LAYERS, **config}))
    torch.manual_seed(seed)
    for name, parameter in tuned.named_parameters():
        if any(part in name for part in ("lora_", "modules_to_save", "bias")) or (rows and "embed" in name):
            with torch.no_grad():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    tuned.save_pretrained(folder)
    return folder


def merged_by_peft(base: Path, *folders: Path, rows: int | None = None) -> dict[str, torch.Tensor]:
    import peft

    model = load_llama(base)
    if rows is not None:
        model.resize_token_embeddings(rows)
        model.requires_grad_(False)
    for folder in folders:
        model = peft.PeftModel.from_pretrained(model, folder).merge_and_unload()
    return dict(model.state_dict())


def merged_here(base: Path, *given: str) -> tuple[OpenedModel, dict[str, torch.Tensor]]:
    opened = open_model(ModelSpec(str(base), adapters=given))
    source = TensorSource(opened.checkpoint)
    return opened, {name: source.get(name, torch.float32) for name in opened.checkpoint.tensors}


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, atol=2e-6, rtol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("base") / "model")


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_rslora": True, "fan_in_fan_out": True},
        {
            "target_modules": "all-linear",
            "rank_pattern": {"q_proj": 2, "layers.1.mlp.down_proj": 8, r"layers\.0.*up_proj": 3},
            "alpha_pattern": {"k_proj": 9, "^model.layers.1.self_attn.v_proj": 1},
        },
        {"modules_to_save": ["lm_head", "input_layernorm"]},
        {"target_modules": ["embed_tokens", "o_proj"]},
        {"use_dora": True},
        {"use_dora": True, "target_modules": ["embed_tokens", "gate_proj"]},
    ],
    ids=["plain", "rslora", "patterns", "whole modules", "embedding", "dora", "dora of an embedding"],
)
def test_merged_weights_are_those_of_peft(tmp_path: Path, base: Path, config: dict[str, Any]) -> None:
    folder = trained(tmp_path / "adapter", base, **config)
    theirs = merged_by_peft(base, folder)
    assert_same(merged_here(base, str(folder))[1], theirs)
    assert sum(not torch.equal(weight, load_file(base / "model.safetensors")[name]) for name, weight in theirs.items()) > 1


def test_biases_are_replaced_and_added_to(tmp_path: Path) -> None:
    base = change_config(write_tiny_llama(tmp_path / "model", layers=1), attention_bias=True)
    state = load_file(base / "model.safetensors")
    for name in [name for name in state if "self_attn" in name]:
        state[name.replace("weight", "bias")] = torch.linspace(-1, 1, state[name].shape[0])
    save_file(state, base / "model.safetensors", metadata={"format": "pt"})
    for number, config in enumerate(({"bias": "lora_only"}, {"lora_bias": True, "target_modules": ["q_proj", "o_proj"]})):
        folder = trained(tmp_path / f"adapter{number}", base, **config)
        assert_same(merged_here(base, str(folder))[1], merged_by_peft(base, folder))


@pytest.mark.parametrize("tie", [False, True])
def test_rows_for_new_tokens_come_with_the_adapter_and_its_tokenizer(tmp_path: Path, tie: bool) -> None:
    base, rows = write_tiny_llama(tmp_path / "model", tie=tie), VOCAB + 2
    folder = trained(tmp_path / "adapter", base, rows=rows)
    shutil.copyfile(base / "tokenizer.model", folder / "tokenizer.model")
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": False}
    added = {"added_tokens_decoder": {str(VOCAB): {"content": "<new>", **flags}}}
    (folder / "tokenizer_config.json").write_text(json.dumps(added))
    opened, ours = merged_here(base, str(folder))
    theirs = merged_by_peft(base, folder, rows=rows)
    if tie:
        del theirs["lm_head.weight"]
    assert_same(ours, theirs)
    assert (opened.checkpoint.shape.vocab, opened.checkpoint.config["vocab_size"]) == (rows, rows)
    assert opened.tokenizer.encode("a<new>")[-1] == VOCAB
    written = convert(base, tmp_path / "merged", adapters=opened.folder.adapters)
    assert written.shape.vocab == rows
    assert_same(dict(load_file(tmp_path / "merged/model.safetensors")), theirs)
    assert open_tokenizer(tmp_path / "merged").encode("a<new>")[-1] == VOCAB
    convert(write_gguf(tmp_path / "x.gguf", tie=tie), tmp_path / "of_gguf", adapters=opened.folder.adapters)
    assert open_tokenizer(tmp_path / "of_gguf").encode("a<new>")[-1] == VOCAB


def test_rows_for_new_tokens_that_were_trained_as_whole_modules(tmp_path: Path, base: Path) -> None:
    """peft saves such a module three times: trained under two names, and as it was."""
    rows = VOCAB + 2
    folder = trained(tmp_path / "adapter", base, rows=rows, modules_to_save=["embed_tokens", "lm_head"])
    tensors = load_file(folder / "adapter_model.safetensors")
    kept = "base_model.model.lm_head.original_module.weight"
    assert not torch.equal(tensors[kept], tensors["base_model.model.lm_head.weight"])
    opened, ours = merged_here(base, str(folder))
    assert_same(ours, merged_by_peft(base, folder, rows=rows))
    assert opened.checkpoint.shape.vocab == details(resolve(str(folder)))["vocabulary"] == rows
    del tensors["base_model.model.lm_head.weight"], tensors["base_model.model.lm_head.modules_to_save.weight"]
    save_file(tensors, folder / "adapter_model.safetensors")
    assert "no trained weights of lm_head" in refusal(base, folder).cause


def test_scales_and_several_adapters_add_up(tmp_path: Path, base: Path) -> None:
    first, second = trained(tmp_path / "a", base), trained(tmp_path / "b", base, seed=1, r=2)
    assert_same(merged_here(base, str(first), str(second))[1], merged_by_peft(base, first, second))
    own = load_file(base / "model.safetensors")
    whole = merged_here(base, str(first))[1]
    half = merged_here(base, f"{first}:0.5")[1]
    assert_same(half, {name: (whole[name] + weight) / 2 for name, weight in own.items()})
    assert_same(merged_here(base, str(first), f"{first}:-1")[1], dict(own))


def test_adapters_are_merged_in_order(tmp_path: Path, base: Path) -> None:
    lora, dora = trained(tmp_path / "lora", base), trained(tmp_path / "dora", base, seed=1, use_dora=True)
    whole = trained(tmp_path / "whole", base, seed=2, modules_to_save=["q_proj"], target_modules=["o_proj"])
    for order in ((lora, whole), (whole, lora), (dora, whole, lora)):
        assert_same(merged_here(base, *map(str, order))[1], merged_by_peft(base, *order))


def test_numbers_that_no_model_can_have_are_refused(tmp_path: Path, base: Path) -> None:
    folder = trained(tmp_path / "adapter", base)
    file = folder / "adapter_model.safetensors"
    tensors, name = load_file(file), "model.layers.0.self_attn.q_proj.weight"
    save_file({key: tensor * 1e4 for key, tensor in tensors.items()}, file)
    source = TensorSource(open_model(ModelSpec(str(base), adapters=(str(folder),))).checkpoint)
    assert source.get(name, torch.bfloat16).isfinite().all()
    with pytest.raises(ModelError) as caught:
        source.get(name, torch.float16)
    assert caught.value.code == "range"
    next(tensor for key, tensor in tensors.items() if "0.self_attn.q_proj.lora_A" in key)[0, 0] = float("nan")
    save_file(tensors, file)
    source = TensorSource(open_model(ModelSpec(str(base), adapters=(str(folder),))).checkpoint)
    with pytest.raises(ModelError, match=r"lora_A\.weight has numbers that are NaN"):
        source.get(name)


def test_a_loaded_model_has_the_adapter_whatever_its_format_and_type(tmp_path: Path, base: Path) -> None:
    folder = trained(tmp_path / "adapter", base)
    theirs = merged_by_peft(base, folder)
    for model in (base, write_gguf(tmp_path / "model.gguf")):
        spec = ModelSpec(str(model), dtype="float32", device="cpu", adapters=(str(folder),))
        loaded = load(open_model(spec), spec)
        assert loaded.model is not None
        assert_same(dict(loaded.model.state_dict()), theirs)
    checkpoint = open_model(spec).checkpoint
    made = dict(quantized(checkpoint, "int8", NativeLayout(), lambda count: None))
    down = theirs["model.layers.0.mlp.down_proj.weight"]
    scale = down.abs().amax(1) / 127
    torch.testing.assert_close(made["layers.0.down.scale"], scale)
    assert (made["layers.0.down.weight"] - (down / scale[:, None]).round()).abs().max() <= 1


def test_a_folder_with_an_adapter_alone_names_its_model(tmp_path: Path, base: Path) -> None:
    folder, said = trained(tmp_path / "adapter", base), list[str]()
    opened = open_model(ModelSpec(str(folder)), notice=said.append)
    assert (opened.folder.path, opened.folder.name) == (base, str(base))
    assert said == [f"olc: {folder} is an adapter for {base}"]
    source = TensorSource(opened.checkpoint)
    assert_same({name: source.get(name, torch.float32) for name in opened.checkpoint.tensors}, merged_by_peft(base, folder))
    again = open_model(ModelSpec(str(folder), adapters=(f"{folder}/:0.5",)))  # Meant once.
    assert [one.scale for one in again.checkpoint.adapters] == [0.5]
    told = details(resolve(str(folder)))
    assert told["adapters"] == [{"path": str(folder), "base_model": str(base), "applied": True}]
    assert look_up(str(folder)).path == base
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "org/base", "revision": "v1"}))
    with pytest.raises(HubError, match=r"org/base.*v1"):
        find(ModelSpec(str(folder), offline=True))
    for name in (None, "/no/such/model"):
        (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": name}))
        with pytest.raises(ModelError, match="is an adapter, and") as caught:
            find(ModelSpec(str(folder)))
        assert f"-m MODEL --adapter {folder}" in caught.value.remedy
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "/content/open_llama_7b_v2/"}))
    with pytest.raises(ModelError) as caught:
        find(ModelSpec(str(folder)))
    assert caught.value.remedy == f"give the model too: -m 7b-v2 --adapter {folder}"


def test_an_adapter_beside_a_model_is_named_and_applied_when_it_is_asked_for(tmp_path: Path, base: Path) -> None:
    folder = trained(Path(shutil.copytree(base, tmp_path / "model")), base)
    said: list[str] = []
    plain = open_model(ModelSpec(str(folder)), notice=said.append)
    assert plain.checkpoint.adapters == ()
    assert f"--adapter {folder} applies it" in said[0]
    assert details(resolve(str(folder)))["adapters"] == [{"path": str(folder), "base_model": str(base), "applied": False}]
    said.clear()
    assert len(open_model(ModelSpec(str(folder), adapters=(str(folder),)), notice=said.append).checkpoint.adapters) == 1
    assert said == []
    (folder / "model.safetensors").unlink()
    write_gguf(folder / "model.gguf")
    assert open_model(ModelSpec(str(folder)), notice=said.append).checkpoint.adapters == ()
    assert f"--adapter {folder} applies it" in said[0]
    assert details(resolve(str(folder)))["adapters"] == [{"path": str(folder), "base_model": str(base), "applied": False}]


def refusal(base: Path, folder: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        merged_here(base, str(folder))
    assert caught.value.remedy
    return caught.value


def test_what_does_not_fit_is_refused_by_name(tmp_path: Path, base: Path) -> None:
    folder = trained(tmp_path / "adapter", base)
    file, config = folder / "adapter_model.safetensors", json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(file)

    def with_config(**changes: Any) -> ModelError:
        (folder / "adapter_config.json").write_text(json.dumps({**config, **changes}))
        error = refusal(base, folder)
        (folder / "adapter_config.json").write_text(json.dumps(config))
        return error

    assert "has rank 4 in model.layers" in with_config(r=8).cause
    assert "is of the kind IA3" in with_config(peft_type="IA3").cause
    assert "use_qalora" in with_config(use_qalora=True).cause
    assert "changed the model's own weights" in with_config(init_lora_weights="pissa_niter_4").cause
    for slow in ("(a+)+$", "(.|.)*x", ".*.*.*.*.*x"):
        assert "no pattern of names" in with_config(rank_pattern={slow: 4}).cause
    assert "lacks the magnitudes" in with_config(use_dora=True).cause
    deeper = write_tiny_llama(tmp_path / "shallow", layers=1)
    assert "layers.1" in refusal(deeper, folder).cause
    assert f"was made for {base}" in refusal(deeper, folder).remedy
    wider = write_tiny_llama(tmp_path / "wide", heads=8, kv_heads=2)
    assert "where the model has" in refusal(wider, folder).cause
    name = next(name for name in tensors if "lora_B" in name)
    save_file({key: value for key, value in tensors.items() if key != name}, file)
    assert "lacks lora_B" in refusal(base, folder).cause
    save_file({**tensors, "base_model.model.model.layers.0.mlp.gate_proj.ia3_l": torch.ones(4)}, file)
    assert "ia3_l, which olc does not merge" in refusal(base, folder).cause
    file.write_bytes(file.read_bytes()[:500])
    assert "truncated" in refusal(base, folder).cause
    file.unlink()
    assert "has adapter_config.json but no adapter_model.safetensors" in refusal(base, folder).cause


def test_what_was_made_of_a_model_knows_its_adapters(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = trained(tmp_path / "adapter", base)
    given: list[tuple[str, ...]] = [(), (str(folder),), (f"{folder}:0.5",)]
    opened = []
    for adapters_given in given:
        spec = ModelSpec(str(base), dtype="float32", device="cpu", quantize="int8", adapters=adapters_given)
        opened.append(open_model(spec))
        for _ in range(2):
            load(opened[-1], spec)
    assert [copy.model for copy in list_copies()] == [str(base), f"{base} + {folder}", f"{base} + {folder}:0.5"]
    sockets = {socket_path(base, None, "int8", "cpu", one.folder.adapters) for one in opened}
    assert len(sockets) == 3
    plain, whole, half = ({"model": opened_fingerprint(one)} for one in opened)
    assert differences(plain, whole) == ["--adapter was not given, now adapter:1"]
    assert differences(half, whole) == ["--adapter was adapter:0.5, now adapter:1"]
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, folder / "adapter_model.safetensors")
    assert differences(whole, {"model": opened_fingerprint(opened[1])}) == ["an adapter's files changed"]


def test_a_completion_names_the_adapters_that_it_was_made_with(tmp_path: Path, base: Path) -> None:
    folder = trained(tmp_path / "adapter", base)
    command = ["complete", "the whale", "-n", "3", "--json", "-m", str(base), "--adapter", f"{folder}:2"]
    made = fork(*command)
    assert made.code == 0, made.messages
    assert json.loads(made.text)["olc"]["adapters"] == [f"{folder}:2"]
    refused = fork(*command, "--server", "http://127.0.0.1:1")
    assert (refused.code, f"--adapter {folder}:2 cannot be combined" in refused.messages) == (2, True)


def test_names_and_scales_are_told_apart(tmp_path: Path) -> None:
    assert adapters.parse("org/name:0.5") == ("org/name", 0.5)
    assert adapters.parse("a") == ("a", 1.0)
    (tmp_path / "x:2").mkdir()
    assert adapters.parse(str(tmp_path / "x:2")) == (str(tmp_path / "x:2"), 1.0)
