"""What the user asked for, before anything is looked up."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from openllama_cli.errors import UsageError
from openllama_cli.system.device import DtypeName

QuantizeName = Literal["int8", "int4"]


Origin = Literal["folder", "hub", "demo"]
ChosenBy = Literal["flag", "environment", "default", "fallback"]


def scale_text(scale: float) -> str:
    """A scale as one types it, exactly: 2, 0.5."""
    return repr(scale).removesuffix(".0")


@dataclass(frozen=True)
class FoundAdapter:
    """Where an adapter is. name: to show. scale: what it is multiplied with. repo_id, revision (the commit): on the Hub."""

    path: Path
    name: str
    scale: float = 1.0
    repo_id: str | None = None
    revision: str | None = None

    @property
    def label(self) -> str:
        """As it is given to --adapter."""
        return self.name if self.scale == 1 else f"{self.name}:{scale_text(self.scale)}"


@dataclass(frozen=True)
class ModelFolder:
    """Where a model's files are.

    path: the folder, or a GGUF file. name: to show. repo_id, revision (the commit): for origin "hub". chosen_by: what named the
    model; "fallback" is the demo model, because nothing did. adapters: to merge into it, in order.
    """

    path: Path
    name: str
    origin: Origin = "folder"
    repo_id: str | None = None
    revision: str | None = None
    chosen_by: ChosenBy = "flag"
    adapters: tuple[FoundAdapter, ...] = ()

    @property
    def hub_name(self) -> str | None:
        """What names it on the Hub: organization/name, or organization/name:FILE.gguf; None for one that is not there."""
        return f"{self.repo_id}:{self.path.name}" if self.repo_id and self.path.suffix == ".gguf" else self.repo_id


@dataclass(frozen=True)
class ModelSpec:
    """Which model, and how to load it.

    model: alias ("3b-v2"), Hub id ("openlm-research/open_llama_3b"), folder, GGUF file ("model.gguf") or one on the Hub
        ("org/name:model.gguf"); None means OLC_MODEL, then the default set with `olc models default`, then the demo model.
    revision: a Hub branch, tag or commit; None is "main".
    device: "auto" (device_map="auto"), "cpu", "cuda", "cuda:N" or "mps".
    dtype: "auto" is the checkpoint's on a GPU; on a CPU bfloat16 where the processor has it, else float32.
    quantize: bits of the weights in memory, on a CPU; None leaves them as they are. dtype is then that of the activations.
    offline: never use the network.
    adapters: LoRA adapters to merge into the weights: folders or Hub ids, each with ":SCALE" behind it or not.

    Raises UsageError naming the flag.
    """

    model: str | None = None
    revision: str | None = None
    device: str = "auto"
    dtype: DtypeName = "auto"
    offline: bool = False
    quantize: QuantizeName | None = None
    adapters: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not all(adapter.strip() for adapter in self.adapters):
            raise UsageError("--adapter is empty", "give a folder or a Hub id")
        if self.model is not None and not self.model.strip():
            raise UsageError("--model is empty", "give an alias, a Hub id or a folder; see `olc models list`")
        # Two digits: torch counts devices in a signed byte, and 200 would become -56.
        if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,2})?", self.device):
            raise UsageError(f"--device {self.device} is unknown", "use auto, cpu, cuda, cuda:N or mps")
        if self.dtype not in get_args(DtypeName):
            raise UsageError(f"--dtype {self.dtype} is unknown", f"use one of {', '.join(get_args(DtypeName))}")
        if self.quantize is None:
            return
        if self.quantize not in get_args(QuantizeName):
            raise UsageError(f"--quantize {self.quantize} is unknown", f"use {' or '.join(get_args(QuantizeName))}")
        if self.device not in ("auto", "cpu"):
            raise UsageError(
                f"--quantize {self.quantize} runs only on the CPU, but --device is {self.device}",
                "use --device cpu, or leave out --quantize",
            )
        if self.dtype == "float16":
            raise UsageError(
                f"--quantize {self.quantize} computes in bfloat16 or float32, but --dtype is float16",
                "leave out --dtype",
            )
