"""The options of `olc batch` as they were given: what is refused, and what the batch is to be."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from openllama_cli.batch.input.carry import Carry
from openllama_cli.batch.input.choice_settings import ChoiceSettings
from openllama_cli.batch.input.lines import check_input
from openllama_cli.batch.input.readers import FormatName, input_format
from openllama_cli.batch.input.rows import RowSettings
from openllama_cli.batch.input.score_settings import SAMPLING, ScoreSettings
from openllama_cli.batch.ray.options import RayOptions, parse_engine
from openllama_cli.commands.batch.engines import Engine, LocalEngine, open_engine
from openllama_cli.commands.batch.run import RowAnnotator
from openllama_cli.commands.batch.score_options import refuse_beside_score, refuse_texts
from openllama_cli.commands.shared.annotations import PipelineOptions
from openllama_cli.commands.shared.choice_options import ChoiceOptions, check_calibrated, sampling_flags
from openllama_cli.commands.shared.few_shot import ExampleOptions, with_template
from openllama_cli.commands.shared.prompt_input import missing, unescape_stops
from openllama_cli.commands.shared.server import parse_server
from openllama_cli.errors import UsageError
from openllama_cli.generation.decode.config import choose_sampling
from openllama_cli.models.loading.ranks import one_process_only
from openllama_cli.models.spec import ModelSpec
from openllama_cli.openai_api.address import ServerAddress
from openllama_cli.prompt_templates import PromptTemplate, load_template
from openllama_cli.terminal.streams import hint

_FINISHED = "name a finished OUTPUT: --report answers.jsonl"


@dataclass(frozen=True)
class Plan:
    """A batch that may begin. source: INPUT, as it was named. output: OUTPUT; None for a name that INPUT gives.

    batch_size: None for what the engine thinks best. find_engine: finds the model, or the server; raises OlcError.
    """

    source: str
    fmt: FormatName
    output: str | None
    settings: RowSettings
    batch_size: int | None
    annotator: RowAnnotator | None
    find_engine: Callable[[], Engine]

    @property
    def from_stdin(self) -> bool:
        return self.source == "-"

    def local_engine(self) -> LocalEngine:
        """The model, for what only runs here."""
        engine = self.find_engine()
        assert isinstance(engine, LocalEngine)
        return engine


@dataclass(frozen=True)
class Given:
    """Every option by its parameter in `command`."""

    source: str | None
    output: str | None
    format_name: str | None
    template: str | None
    examples: ExampleOptions
    show_prompt: bool
    carry: str
    choosing: ChoiceOptions
    scoring: ScoreSettings | None
    escape: bool
    num_samples: int
    batch_size_text: str
    dry_run: bool
    peek: str | None
    report: str | None
    svg: str | None
    as_json: bool
    retry_errors: bool
    restart: bool
    engine_name: str
    ray_address: str | None
    workers: int | None
    server: str | None
    json_progress: bool
    annotated: str | None
    chosen: PipelineOptions
    given: dict[str, Any]
    spec: ModelSpec

    def plan(self) -> Plan:
        """What the batch is to be. Raises UsageError for what cannot stand together, or is wrong by itself."""
        source, batch_size, (ray, address) = self._source(), _parse_batch_size(self.batch_size_text), self._elsewhere()
        annotator = RowAnnotator.parse(self.annotated, self.chosen)
        if self.retry_errors and self.restart:
            raise UsageError("--retry-errors and --restart cannot be combined", "give only one of them")
        settings = self._settings(for_server=address is not None)
        output = "-" if self.show_prompt or self.dry_run else self.output
        if source == "-" and (output is None or self.format_name is None):
            raise self._unnamed(output)
        if source != "-":
            check_input(Path(source))
        fmt = input_format(Path(source), self.format_name)
        if self.scoring is not None and self.scoring.context_column is not None and fmt == "txt":
            raise UsageError("--context-column needs columns, and the lines of .txt have none", "use .csv or .jsonl")
        if not self.show_prompt and not self.dry_run and output in ("-", "/dev/stdout"):
            self._refuse_of_files()
        if self.dry_run and self.output not in (None, "-", "/dev/stdout"):
            from openllama_cli.batch.output.output import check_output

            check_output(Path(self.output), None if source == "-" else Path(source), restart=self.restart)
        find_engine = partial(open_engine, self.spec, ray, address, settings)
        return Plan(source, fmt, output, settings, batch_size, annotator, find_engine)

    def _source(self) -> str:
        """INPUT. Raises UsageError where there is none, or for an option of what is done without one."""
        if self.svg is not None:
            raise UsageError("--svg requires --report", _FINISHED)
        if self.as_json and not (self.show_prompt or self.dry_run):
            raise UsageError("--json requires --report, --dry-run or --show-prompt", _FINISHED)
        if self.source is None:
            raise missing("INPUT", "name a file of prompts, or - for stdin")
        return self.source

    def _elsewhere(self) -> tuple[RayOptions | None, ServerAddress | None]:
        """Where rows are completed, if not in this process. Raises UsageError."""
        ray = parse_engine(self.engine_name, self.ray_address, self.workers)
        if ray is not None:
            one_process_only("--engine ray")
        address = parse_server(self.server, self.spec)
        if address is not None and ray is not None:
            raise UsageError("--server cannot be combined with --engine ray", "leave one of them out")
        if self.dry_run:
            for flag, elsewhere in {"--server": address, "--engine ray": ray}.items():
                if elsewhere is not None:
                    raise UsageError(f"--dry-run cannot be combined with {flag}", f"leave out {flag}: it measures this machine")
            one_process_only("--dry-run")
        return ray, address

    def _settings(self, *, for_server: bool) -> RowSettings:
        """By which INPUT gives rows. Raises UsageError."""
        given, scoring, samples = self.given, self.scoring, self.num_samples
        if self.escape:
            unescape_stops(given)
        template = load_template(self.template) if self.template is not None else None
        if template is not None and not template.variables:
            hint(f"the template {template.name} has no variables: every row gets the same prompt")
        if scoring is not None:
            others = {"--annotate": self.annotated, "--server": self.server, "--num-samples": samples > 1}
            refuse_beside_score({self.choosing.given or "": self.choosing.given, **others, **sampling_flags(given)})
            refuse_texts(self.output)
        beside = {**given, **({"num_samples": samples} if samples > 1 else {})}
        return RowSettings(
            template,
            _defaults(given, template, samples) if scoring is None else SAMPLING,
            carry=Carry.parse(self.carry),
            model=self.spec.model,
            fixed_length="max_tokens" in given or scoring is not None,
            for_server=for_server,
            samples=samples,
            guarded=True,
            few_shot=replace(self.examples, prefix=self.choosing.prefix).open(template),
            choosing=ChoiceSettings() if scoring is not None else _choosing(self.choosing, template, beside),
            scoring=scoring,
        )

    def _unnamed(self, output: str | None) -> UsageError:
        """What stdin does not tell: its format, and a name for OUTPUT."""
        both = output is None and self.format_name is None
        what = "its format and the output" if both else "the output" if output is None else "its format"
        flags = [*(["--format txt"] if self.format_name is None else []), *(["-o answers.jsonl"] if output is None else [])]
        return UsageError("INPUT is stdin", f"name {what}: {' '.join(flags)}")

    def _refuse_of_files(self) -> None:
        """Raise UsageError for an option of an OUTPUT that is a file; this one is stdout."""
        flags = {"--retry-errors": self.retry_errors, "--restart": self.restart, "--json-progress": self.json_progress}
        option = next((flag for flag, given in flags.items() if given), None)
        if option is not None:
            raise UsageError(f"{option} needs an OUTPUT that is a file", f"leave out {option}, or give -o a file name")


def _parse_batch_size(text: str) -> int | None:
    """The value of --batch-size: None for auto, else a number of rows. Raises UsageError."""
    if text == "auto":
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise UsageError(f"--batch-size {text} is not a batch size", "give auto, or a number from 1 to 1024")
    return int(text)


def _defaults(given: Mapping[str, Any], template: PromptTemplate | None, samples: int) -> dict[str, Any]:
    """The options that hold for every row. Raises UsageError."""
    choose_sampling(given, samples=samples)
    defaults = with_template(given, template)
    if samples > 1:
        defaults.setdefault("temperature", 1.0)
    return defaults


def _choosing(options: ChoiceOptions, template: PromptTemplate | None, given: Mapping[str, Any]) -> ChoiceSettings:
    """What rows are chosen from. given: sampling options, which make no sense beside it. Raises UsageError."""
    choices = options.choices(template, of_rows=True)
    if choices is not None:
        options.refuse(template, sampling_flags(given))
    text = options.calibrate_with
    if text is not None and template is not None:
        check_calibrated(template)
    elif text is not None and choices is not None:
        choices = replace(choices, neutral=text)
    option = options.depending if choices is None else None
    return ChoiceSettings(choices, options.prefix_of(template), options.normalize or "sum", text, option)
