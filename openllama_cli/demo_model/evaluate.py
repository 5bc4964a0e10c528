"""Asks the demo model what it should know: `python -m openllama_cli.demo_model.evaluate [--json]`."""

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from transformers import DynamicCache, LlamaForCausalLM

from openllama_cli.demo_model.cases import GROUPS, Case, cases, sample
from openllama_cli.demo_model.corpus import held_out_texts, load_corpus

WEIGHTS = Path(__file__).parent / "weights"
BOS, EOS = 1, 2
ROWS = 128


@dataclass(frozen=True)
class Score:
    """asked: number of prompts; right: share completed exactly and ended there; stopped: share ended by EOS at all."""

    asked: int
    right: float
    stopped: float


@dataclass(frozen=True)
class Evaluation:
    """Scores by group (see `cases`), of both held-out groups, by topic and group; perplexity a token of `held_out_texts`."""

    dtype: str
    groups: dict[str, Score]
    held_out: Score
    topics: dict[str, dict[str, Score]]
    held_out_perplexity: float


@dataclass(frozen=True)
class Outcome:
    case: Case
    completion: str
    stopped: bool

    @property
    def right(self) -> bool:
        return self.stopped and self.completion == self.case.completion


class DemoModel:
    """A folder with the demo model, loaded for greedy work in batches."""

    def __init__(self, folder: Path = WEIGHTS, dtype: torch.dtype = torch.float32) -> None:
        self.tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        self.model = LlamaForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)

    def encode(self, text: str) -> list[int]:
        return [BOS, *self.tokenizer.encode(text)]

    @torch.inference_mode()
    def complete(self, prompts: Sequence[list[int]], limit: int) -> list[list[int]]:
        """Greedy continuations of prompts of one length, each cut behind its EOS or at `limit` tokens."""
        ids = torch.tensor(prompts)
        cache = DynamicCache(config=self.model.config)
        steps: list[torch.Tensor] = []
        ended = torch.zeros(len(prompts), dtype=torch.bool)
        while len(steps) < limit and not ended.all():
            # By its place: transformers 5.24 calls the cache otherwise than 5.3 does.
            out = self.model(ids, None, None, cache, use_cache=True, logits_to_keep=1)
            ids = out.logits[:, -1].argmax(-1, keepdim=True)
            steps.append(ids)
            ended |= ids[:, 0] == EOS
        rows: list[list[int]] = torch.cat(steps, 1).tolist()
        return [row[: row.index(EOS) + 1] if EOS in row else row for row in rows]

    @torch.inference_mode()
    def perplexity(self, texts: Sequence[str]) -> float:
        """exp of the mean negative log likelihood of every token behind BOS, the text's EOS included."""
        nats, count = 0.0, 0
        for group in _by_length([[*self.encode(text), EOS] for text in texts]).values():
            ids = torch.tensor([row for _, row in group])
            logits = self.model(input_ids=ids[:, :-1], use_cache=False).logits.float()
            nats += torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum").item()
            count += ids[:, 1:].numel()
        return math.exp(nats / count)


def answer(model: DemoModel, asked: Sequence[Case]) -> list[Outcome]:
    """The model's completion of every case, in order. Rows of one length go together, so that nothing is padded."""
    outcomes: dict[int, Outcome] = {}
    for group in _by_length([model.encode(case.prompt) for case in asked]).values():
        for start in range(0, len(group), ROWS):
            rows = group[start : start + ROWS]
            limit = 8 + max(len(model.tokenizer.encode(asked[index].completion)) for index, _ in rows)
            for (index, prompt), new in zip(rows, model.complete([row for _, row in rows], limit), strict=True):
                stopped = new[-1] == EOS
                text = model.tokenizer.decode(prompt[1:] + new[: len(new) - stopped])
                outcomes[index] = Outcome(asked[index], text[len(asked[index].prompt) :], stopped)
    return [outcomes[index] for index in range(len(asked))]


def evaluate(model: DemoModel, asked: Sequence[Case], *, texts: Sequence[str]) -> tuple[Evaluation, list[Outcome]]:
    """Scores over the cases, and each outcome."""
    outcomes = answer(model, asked)
    groups: dict[str, list[Outcome]] = defaultdict(list)
    topics: dict[str, dict[str, list[Outcome]]] = defaultdict(lambda: defaultdict(list))
    for outcome in outcomes:
        groups[outcome.case.group].append(outcome)
        topics[outcome.case.topic][outcome.case.group].append(outcome)
    held_out = [outcome for group in ("held_out_pair", "held_out_wording") for outcome in groups[group]]
    evaluation = Evaluation(
        dtype=str(model.model.dtype).removeprefix("torch."),
        groups={group: _score(groups[group]) for group in GROUPS},
        held_out=_score(held_out),
        topics={topic: {name: _score(found) for name, found in by.items()} for topic, by in sorted(topics.items())},
        held_out_perplexity=model.perplexity(texts),
    )
    return evaluation, outcomes


def _by_length(rows: Sequence[list[int]]) -> dict[int, list[tuple[int, list[int]]]]:
    """Rows with their index, grouped by length."""
    groups: dict[int, list[tuple[int, list[int]]]] = defaultdict(list)
    for index, row in enumerate(rows):
        groups[len(row)].append((index, row))
    return groups


def _score(outcomes: Sequence[Outcome]) -> Score:
    count = max(1, len(outcomes))
    return Score(
        asked=len(outcomes),
        right=sum(outcome.right for outcome in outcomes) / count,
        stopped=sum(outcome.stopped for outcome in outcomes) / count,
    )


def report(evaluation: Evaluation) -> str:
    """The evaluation as lines for people."""
    lines = [f"{'':20}{'asked':>8}{'right':>9}{'stopped':>9}"]
    for name, score in [*evaluation.groups.items(), ("held out, both", evaluation.held_out)]:
        lines.append(f"{name:20}{score.asked:>8}{score.right:>9.1%}{score.stopped:>9.1%}")
    lines += ["", f"{'topic':20}{'trained':>9}{'held out pair':>15}{'held out wording':>18}"]
    for topic, by in evaluation.topics.items():
        cells = [f"{by[name].right:.1%}" if name in by else "-" for name in ("trained", "held_out_pair", "held_out_wording")]
        if cells != ["-", "-", "-"]:
            lines.append(f"{topic:20}{cells[0]:>9}{cells[1]:>15}{cells[2]:>18}")
    lines += [
        "",
        f"perplexity of held-out questions and answers, per token: {evaluation.held_out_perplexity:.2f} ({evaluation.dtype})",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m openllama_cli.demo_model.evaluate", description="Ask the demo model of olc what it should know."
    )
    parser.add_argument("--model", type=Path, default=WEIGHTS, help="folder of the model (default: the packaged weights)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--sample", type=int, metavar="N", help="ask at most N prompts of each group")
    parser.add_argument("--every-format", action="store_true", help="ask each question in all four main formats")
    parser.add_argument("--seed", type=int, default=0, help="chooses formats and the sample")
    parser.add_argument("--wrong", type=int, default=0, metavar="N", help="also print N wrong completions of each group")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    asked = cases(load_corpus(), seed=options.seed, every_format=options.every_format)
    if options.sample:
        asked = sample(asked, options.sample, options.seed)
    model = DemoModel(options.model, getattr(torch, options.dtype))
    evaluation, outcomes = evaluate(model, asked, texts=held_out_texts())
    if options.json:
        document: dict[str, Any] = asdict(evaluation)
        print(json.dumps(document, indent=2))
        return
    print(report(evaluation))
    for group in GROUPS if options.wrong else ():
        wrong = [outcome for outcome in outcomes if outcome.case.group == group and not outcome.right]
        for outcome in wrong[: options.wrong]:
            print(f"{group}: {outcome.case.prompt!r} -> {outcome.completion!r}, expected {outcome.case.completion!r}")


if __name__ == "__main__":
    main()
