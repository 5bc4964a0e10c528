"""What a command asks a server for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from openllama_cli.generation.choices.config import Choices
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.openai_api.request import choices_request, completion_request


@dataclass(frozen=True)
class Asked:
    """A request. prompts: one, or several. samples: completions of each. echo: the prompts' tokens are wanted too. fit: a
    completion may end before max_tokens, where the context does. tokens: ids are wanted. by_place: draws as `olc generate`.
    choices: the answer is one of these; olc's own server alone knows them, and nothing is sampled. ids: of the only prompt,
    which is sent as they are. record: what it takes to make the answer again is wanted with it, if the server is olc's."""

    prompts: Sequence[str]
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    samples: int = 1
    echo: bool = False
    fit: bool = False
    tokens: bool = False
    by_place: bool = False
    choices: Choices | None = None
    ids: Sequence[int] | None = None
    record: bool = False

    def body(self, model: str, *, stream: bool, olc: bool) -> dict[str, Any]:
        """The JSON of the request. model: its name there. stream: as it comes. olc: whether olc's own server gets it."""
        prompts: str | Sequence[str] | Sequence[int] = self.prompts[0] if len(self.prompts) == 1 else self.prompts
        if self.ids is not None:
            prompts = self.ids
        if self.choices is not None:
            return {"model": model, "prompt": prompts, **choices_request(self.choices)}
        body = completion_request(model, prompts, self.sampling, echo=self.echo, olc=olc)
        if self.samples > 1:
            body["n"] = self.samples
        if stream:
            body["stream"] = True
        if olc:
            body["olc"] = {"fit": self.fit, "tokens": self.tokens, "draws_by_choice": self.by_place}
        return body
