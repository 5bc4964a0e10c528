"""What the results of a batch depend on: the header of its journal."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openllama_cli.batch.input.readers import InputFormat
from openllama_cli.batch.input.rows import RowSettings
from openllama_cli.models.opened import OpenedModel
from openllama_cli.models.spec import ModelSpec
from openllama_cli.prompt_templates import PromptTemplate

if TYPE_CHECKING:
    from openllama_cli.batch.input.precheck import InputSummary


def batch_header(
    opened: OpenedModel,
    spec: ModelSpec,
    settings: RowSettings,
    template: PromptTemplate | None,
    fmt: InputFormat,
    summary: "InputSummary",
) -> dict[str, Any]:
    """All that the results depend on; a journal is resumed under the same header only."""
    from openllama_cli.batch.journal.fingerprint import model_fingerprint

    sampling = settings.sampling
    options = {
        "dtype": spec.dtype,
        "device": spec.device,
        "quantize": spec.quantize,
        "max_tokens": sampling.max_tokens,
        # As given, not as it came out: it decides for rows that have options of their own.
        "temperature": settings.defaults.get("temperature"),
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "seed": sampling.seed,
        "stop": list(sampling.stop),
    }
    checkpoint = opened.checkpoint
    return {
        "input": {"sha256": summary.sha256, "format": fmt.name},
        "model": model_fingerprint([*checkpoint.files, *_config_files(opened)], revision=opened.folder.revision),
        "tokenizer": {"name": opened.tokenizer.path.name, "sha256": opened.tokenizer.sha256},
        "template": None if template is None else _template(template),
        "options": options,
    }


def _config_files(opened: OpenedModel) -> list[Path]:
    names = ("config.json", "generation_config.json", "params.json")
    return [path for name in names if (path := opened.checkpoint.path / name).is_file()]


def _template(template: PromptTemplate) -> dict[str, Any]:
    content = json.dumps([template.template, dict(template.defaults)], sort_keys=True, default=str)
    return {"name": template.name, "sha256": hashlib.sha256(content.encode()).hexdigest()}
