"""Settings of rows as JSON and back, so that an input gives the same rows another time (records of batches)."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from openllama_cli.batch.input.carry import Carry
from openllama_cli.batch.input.choice_settings import ChoiceSettings
from openllama_cli.batch.input.rows import RowSettings
from openllama_cli.batch.input.score_settings import ScoreSettings
from openllama_cli.errors import UsageError
from openllama_cli.few_shot import Examples, FewShot, read_examples
from openllama_cli.few_shot.examples import Example
from openllama_cli.generation.choices.config import Choices
from openllama_cli.prompt_templates import PromptTemplate, template_content, template_of

# Examples that are more than that as JSON are told by their hash alone, and the file is needed again.
MOST_BYTES = 1 << 20
_PLAIN = ("fixed_length", "for_server", "samples", "guarded")


def saved(settings: RowSettings) -> dict[str, Any]:
    """Settings in types that JSON has: the text of the template and of the examples, and every option as it was given.

    Of files there is the last name alone.
    """
    template, choosing, scoring = settings.template, settings.choosing, settings.scoring
    document = {
        "template": None if template is None else {"name": Path(template.name).name, **template_content(template)},
        "defaults": dict(settings.defaults),
        "carry": {"others": settings.carry.others, "names": sorted(settings.carry.names)},
        "model": settings.model,
        **{name: getattr(settings, name) for name in _PLAIN},
        "examples": None if settings.few_shot is None else _examples(settings.few_shot),
        "choices": None if choosing.choices is None else list(choosing.choices.texts),
        "choices_prefix": choosing.prefix,
        "choices_normalize": choosing.normalize,
        "calibrate_with": choosing.calibrate_with,
        "scoring": None if scoring is None else {"context_column": scoring.context_column, "stride": scoring.stride},
    }
    found: dict[str, Any] = json.loads(json.dumps(document, default=str))  # A template's defaults may be dates.
    return found


def _examples(few_shot: FewShot) -> dict[str, Any]:
    listed: list[Any] | None = [[dict(one.values), one.answer] for one in few_shot.examples.examples]
    if len(json.dumps(listed, default=str)) > MOST_BYTES:
        listed = None
    return {
        "name": few_shot.examples.path.name,
        "sha256": few_shot.examples.sha256,
        "shots": few_shot.shots,
        "seed": few_shot.seed,
        "balance": few_shot.balance,
        "choices_prefix": few_shot.template.choices_prefix,
        "examples": listed,
    }


def restored(document: Mapping[str, Any], *, examples: Path | None = None) -> RowSettings:
    """The settings that `saved` made a document of.

    examples: their file, for those that are not in the document; by default the one of their name here. Raises UsageError for
    a file of examples that is missing or another one, and LookupError, TypeError, ValueError or UsageError for a document that
    is damaged.
    """
    told = document["template"]
    template = None
    if told is not None:
        template = template_of(told["name"], {key: value for key, value in told.items() if key != "name"})
    texts, prefix, normalize = document["choices"], document["choices_prefix"], document["choices_normalize"]
    calibrate_with = document["calibrate_with"]
    # With a template each row has a neutral prompt of its own.
    neutral = calibrate_with if template is None else None
    scoring = document["scoring"]
    return RowSettings(
        template,
        document["defaults"],
        carry=Carry(bool(document["carry"]["others"]), frozenset(document["carry"]["names"])),
        model=document["model"],
        **{name: document[name] for name in _PLAIN},
        few_shot=_few_shot(document["examples"], template, examples),
        choosing=ChoiceSettings(
            None if texts is None else Choices(tuple(texts), prefix, normalize, neutral), prefix, normalize, calibrate_with
        ),
        scoring=None if scoring is None else ScoreSettings(scoring["context_column"], scoring["stride"]),
    )


def _few_shot(told: Mapping[str, Any] | None, template: PromptTemplate | None, path: Path | None) -> FewShot | None:
    if told is None:
        return None
    if template is None:
        raise ValueError("it has examples and no template")
    template = replace(template, choices_prefix=told["choices_prefix"])
    if told["examples"] is not None:
        made = tuple(Example(number, values, answer) for number, (values, answer) in enumerate(told["examples"], 1))
        given = frozenset(name for example in made for name in example.values)
        examples = Examples(Path(told["name"]), made, given)
    else:
        examples = _read(told, path or Path(told["name"]), template)
    return FewShot(template, examples, told["shots"], told["seed"], told["balance"])


def _read(told: Mapping[str, Any], path: Path, template: PromptTemplate) -> Examples:
    remedy = f"give the file that the batch had, {told['name']}: --examples path/to/{told['name']}"
    if not path.is_file():
        raise UsageError(
            f"the examples of the batch, {path}, are not here, and too many for its record", remedy, code="examples"
        )
    examples = read_examples(path, template)
    if examples.sha256 != told["sha256"]:
        raise UsageError(f"{path} has other examples than the batch had", remedy, code="examples")
    return examples
