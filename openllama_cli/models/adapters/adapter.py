"""What an adapter does to which weight of a model, from its headers alone."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from openllama_cli.errors import ModelError
from openllama_cli.models.adapters.config import AdapterConfig, read_adapter_config
from openllama_cli.models.checkpoint.safetensors_files import read_safetensors_header
from openllama_cli.models.checkpoint.stored import TensorInfo
from openllama_cli.models.checkpoint.torch_files import read_torch_header
from openllama_cli.models.model_files import brief, damaged, is_there

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_PREFIX = "base_model.model."
EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
# The tensors of a module, as different versions of peft write them; with the adapter's name "default" or without.
_LORA = re.compile(
    r"(.+)\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(?:\.default)?(?:\.(weight|bias))?"
)
_WHOLE = re.compile(r"(.+?)(\.modules_to_save(?:\.default)?)?(?:\.base_layer)?\.(weight|bias)")
# The model's own weights, which peft saves too where an embedding was resized and trained as a whole.
_ORIGINAL = re.compile(r"(.+)\.original_module\.(?:weight|bias)")
_FLOATS = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Change:
    """What an adapter does to one weight; all but `scale` are names of its tensors.

    whole: stands in the weight's place. twin: has to be the same, since the model ties it to that. a, b: their product, times
    `scale`, is added; transposed where they are of an embedding. magnitude: a DoRA's. added: of a bias, is added times `scale`.
    """

    whole: str | None = None
    twin: str | None = None
    a: str | None = None
    b: str | None = None
    scale: float = 1.0
    embedding: bool = False
    magnitude: str | None = None
    added: str | None = None


@dataclass(frozen=True)
class Adapter:
    """An adapter whose headers are valid and fit a model.

    path: its folder. name: to show. scale: what the user multiplies it with. file: its weights. config: what it says of itself.
    changes: by the Hugging Face name of a weight. rows: of the embedding that it brings, None if that keeps its size.
    """

    path: Path
    name: str
    scale: float
    file: Path
    config: AdapterConfig
    changes: Mapping[str, Change]
    rows: int | None

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.config.file, self.file)

    @property
    def method(self) -> str:
        return "DoRA" if self.config.dora else "LoRA"


def weights_of(folder: Path) -> Path | None:
    """The file of an adapter's weights, in the order in which peft looks for them; None if there is none."""
    return next((folder / name for name in WEIGHTS if is_there(folder / name)), None)


def read(folder: Path, name: str, scale: float, shapes: Mapping[str, tuple[int, ...]]) -> Adapter:
    """Read an adapter's configuration and the header of its weights, and compare them with a model.

    shapes: of the model's weights. Raises ModelError for what is no LoRA, damaged, or of another model.
    """
    config = read_adapter_config(folder)
    file = weights_of(folder)
    if file is None:
        raise ModelError(f"{folder} has {config.file.name} but no {WEIGHTS[0]}", "copy the adapter's weights into it")
    tensors = read_safetensors_header(file) if file.suffix == ".safetensors" else read_torch_header(file).tensors
    if not tensors:
        raise damaged(file, "holds no weights: it was saved while another process had them (DeepSpeed, FSDP)")
    return _Matching(file, config, scale, tensors, shapes).adapter(folder, name)


class _Matching:
    """Puts an adapter's tensors together with the model's weights."""

    def __init__(
        self,
        file: Path,
        config: AdapterConfig,
        scale: float,
        tensors: Mapping[str, TensorInfo],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        self._file, self._config, self._scale, self._tensors = file, config, scale, tensors
        self._shapes = dict(shapes)
        self._whole: dict[str, str] = {}
        self._originals: dict[str, str] = {}
        self._parts: dict[str, dict[str, str]] = {}

    def adapter(self, folder: Path, name: str) -> Adapter:
        for stored, info in self._tensors.items():
            if info.dtype not in _FLOATS:
                raise damaged(self._file, f"has {brief(stored)} as {info.dtype}, not as floating-point numbers")
            self._sort(stored)
        for module, stored in self._originals.items():
            if f"{module}.weight" not in self._whole:
                raise damaged(self._file, f"has {brief(stored)}, but no trained weights of {brief(module)}")
        twin = self._twin()
        changes = {weight: Change(whole=stored) for weight, stored in self._whole.items()}
        if twin is not None:
            changes[f"{EMBEDDING}.weight"] = Change(whole=self._whole[f"{EMBEDDING}.weight"], twin=twin)
        rows = self._check_whole()
        for module, parts in self._parts.items():
            for weight, change in self._lora(module, parts):
                old = changes.get(weight)
                changes[weight] = change if old is None else replace(change, whole=old.whole, twin=old.twin)
        return Adapter(folder, name, self._scale, self._file, self._config, changes, rows)

    def _sort(self, stored: str) -> None:
        """Whether a tensor is a part of a LoRA, or stands in place of a weight. Raises ModelError for what is neither."""
        if not stored.startswith(_PREFIX):
            raise damaged(self._file, f"has a tensor {brief(stored)}, which does not begin with {_PREFIX} as peft's do")
        rest = stored.removeprefix(_PREFIX)
        part = _LORA.fullmatch(rest)
        if part is not None:
            module = part[1]
            key = part[2] + (".bias" if part[3] == "bias" else "")
            if f"{module}.weight" not in self._shapes:
                raise self._other(f"changes {brief(module)}, which the model does not have", module)
            if key in self._parts.setdefault(module, {}):
                raise damaged(self._file, f"has {brief(stored)} twice")
            self._parts[module][key] = stored
            return
        original = _ORIGINAL.fullmatch(rest)
        if original is not None:
            self._originals[original[1]] = stored
            return
        whole = _WHOLE.fullmatch(rest)
        weight = f"{whole[1]}.{whole[3]}" if whole is not None else rest
        if whole is None or (weight not in self._shapes and weight != f"{HEAD}.weight"):
            if weight.rpartition(".")[0] + ".weight" in self._shapes or whole is None:
                raise self._other(f"holds {brief(rest)}, which olc does not merge", weight)
            raise self._other(f"holds {brief(weight)}, which the model does not have", weight)
        other = self._whole.setdefault(weight, stored)
        if other == stored:
            return
        # Beside an original peft saves the trained weights twice, and loads those without the infix.
        infixed = whole is not None and whole[2] is not None
        if infixed == (_infix(other) is not None) or self._tensors[other].shape != self._tensors[stored].shape:
            raise damaged(self._file, f"has {brief(weight)} twice")
        self._whole[weight] = other if infixed else stored

    def _twin(self) -> str | None:
        """The output matrix that is held beside the embedding, though the model has one for both; no longer a whole one."""
        stored = self._whole.get(f"{HEAD}.weight")
        if stored is None or f"{HEAD}.weight" in self._shapes:
            return None
        whole = self._whole.get(f"{EMBEDDING}.weight")
        if whole is None or self._tensors[whole].shape != self._tensors[stored].shape:
            raise self._other(f"holds {HEAD}.weight, which is the embedding in the model", f"{HEAD}.weight")
        return self._whole.pop(f"{HEAD}.weight")

    def _check_whole(self) -> int | None:
        """Compare the shapes of whole weights; the rows of an embedding that has another size, if there is one."""
        ends = [f"{EMBEDDING}.weight", *([f"{HEAD}.weight"] if f"{HEAD}.weight" in self._shapes else [])]
        rows: set[int] = set()
        for weight, stored in self._whole.items():
            found, wanted = self._tensors[stored].shape, self._shapes[weight]
            if weight in ends and len(found) == 2 and found[1:] == wanted[1:]:
                if found[0] != wanted[0]:
                    rows.add(found[0])
                self._shapes[weight] = found
            elif found != wanted:
                raise self._other(f"has {brief(weight)} of shape {_times(found)}, where the model has {_times(wanted)}", weight)
        if not rows:
            return None
        if len({self._shapes[weight][0] for weight in ends}) > 1:
            sizes = " and ".join(f"{weight.split('.')[-2]} {self._shapes[weight][0]}" for weight in ends)
            raise damaged(self._file, f"brings rows for new tokens to one of the two only: {sizes}")
        return rows.pop()

    def _lora(self, module: str, parts: Mapping[str, str]) -> list[tuple[str, Change]]:
        weight = f"{module}.weight"
        embedding = "lora_embedding_A" in parts or "lora_embedding_B" in parts
        first, second = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
        unknown = sorted(parts.keys() - {first, second, "lora_magnitude_vector", f"{second}.bias"})
        if unknown or first not in parts or second not in parts:
            what = unknown[0] if unknown else first if first not in parts else second
            raise damaged(self._file, f"{'holds' if unknown else 'lacks'} {what} of {brief(module)}")
        if embedding != (module == EMBEDDING):
            raise damaged(self._file, f"changes {brief(module)} as {'an embedding' if embedding else 'a linear layer'}")
        out, columns = self._shapes[weight] if len(self._shapes[weight]) == 2 else (0, 0)
        a, b = self._tensors[parts[first]].shape, self._tensors[parts[second]].shape
        outer, inner = (columns, out) if embedding else (out, columns)
        if len(a) != 2 or len(b) != 2 or a[0] != b[1] or (b[0], a[1]) != (outer, inner):
            raise self._other(
                f"has matrices {_times(b)} and {_times(a)} for {brief(module)}, where the model has {out} × {columns}", weight
            )
        rank = self._config.rank_of(module)
        if a[0] != rank:
            raise ModelError(
                f"{self._file} has rank {a[0]} in {brief(module)}, but {self._config.file.name} says {rank}",
                "use the configuration and the weights of one training",
                code="adapter",
            )
        magnitude = parts.get("lora_magnitude_vector")
        if (magnitude is not None) != self._config.dora:
            told = "has magnitudes, but adapter_config.json says no use_dora" if magnitude else "lacks the magnitudes of a DoRA"
            raise damaged(self._file, f"{told} ({brief(module)})")
        if magnitude is not None and self._size(magnitude) != outer:
            raise damaged(self._file, f"has {self._size(magnitude)} magnitudes for {brief(module)}, not {outer}")
        scale = self._config.scale_of(module) * self._scale
        change = Change(a=parts[first], b=parts[second], scale=scale, embedding=embedding, magnitude=magnitude)
        bias = parts.get(f"{second}.bias")
        if bias is None:
            return [(weight, change)]
        if f"{module}.bias" not in self._shapes:
            raise self._other(f"adds a bias to {brief(module)}, which has none in the model", weight)
        if self._tensors[bias].shape != (out,):
            raise damaged(self._file, f"has a bias of {brief(module)} that is not {out} numbers")
        return [(weight, change), (f"{module}.bias", Change(added=bias, scale=scale))]

    def _size(self, stored: str) -> int:
        info = self._tensors[stored]
        return max(info.shape, default=0) if info.shape.count(1) >= len(info.shape) - 1 else 0

    def _other(self, what: str, weight: str) -> ModelError:
        """The error for an adapter that does not fit. weight: where it shows."""
        base = "" if self._config.base is None else f": it was made for {brief(self._config.base, 100)}"
        remedy = f"use it with the model that it was trained on{base}"
        if weight.startswith(HEAD):
            remedy = "merge it with peft: the model's output matrix is its embedding"
        return ModelError(f"{self._file} {what}", remedy, code="adapter")


def _infix(stored: str) -> str | None:
    """What peft puts between a module's name and "weight" where the module was trained as a whole, if it did."""
    whole = _WHOLE.fullmatch(stored)
    return None if whole is None else whole[2]


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
