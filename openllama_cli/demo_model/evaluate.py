"""Asks the demo model what it should know: `python -m openllama_cli.demo_model.evaluate [--json]`."""

import argparse
import json
import math
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import sentencepiece
import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaForCausalLM

from openllama_cli.demo_model.corpus import Corpus, Split, held_out_texts, load_corpus
from openllama_cli.demo_model.examples import MAIN_FORMATS, lay_out, with_lead_in
from openllama_cli.demo_model.files import BOS, EOS, WEIGHTS

ROWS = 128
GROUPS: tuple[str, ...] = (*get_args(Split), "held_out_lead_in", "continuation", "unknown_trained", "unknown_held_out")


@dataclass(frozen=True)
class Case:
    """A prompt and the completion it should get, up to and without EOS. group: one of GROUPS."""

    group: str
    topic: str
    prompt: str
    completion: str


def cases(corpus: Corpus, *, seed: int = 0, every_format: bool = False) -> list[Case]:
    """Every phrasing of every fact, each in one of the main formats chosen by the seed, or in all of them.

    trained: question and opening trained word for word. held_out_pair, held_out_wording: see `corpus`.
    held_out_lead_in: a trained question after a lead-in that was never trained.
    """
    rng = random.Random(seed)

    def questions(group: str, topic: str, question: str, answer: str) -> Iterator[Case]:
        forms: Iterable[str] = MAIN_FORMATS if every_format else [rng.choice(list(MAIN_FORMATS))]
        for form in forms:
            yield Case(group, topic, *lay_out(question, answer, form))

    found: list[Case] = []
    for fact in corpus.facts:
        for phrasing in fact.phrasings:
            if phrasing.kind == "opening":
                found.append(Case(phrasing.split, fact.topic, phrasing.text, fact.ending))
            else:
                found += questions(phrasing.split, fact.topic, phrasing.text, fact.answer)
        asked = [phrasing.text for phrasing in fact.of_split("trained") if phrasing.text.endswith("?")]
        if asked:
            question = with_lead_in(asked[0], rng.choice(corpus.held_out_lead_ins))
            found += questions("held_out_lead_in", fact.topic, question, fact.answer)
    for unknown in corpus.unknown:
        group = "unknown_held_out" if unknown.held_out else "unknown_trained"
        found += questions(group, "unknown", unknown.question, unknown.answer)
    return found + [Case("continuation", "continuations", *continuation) for continuation in corpus.continuations]


def sample(found: list[Case], count: int, seed: int) -> list[Case]:
    """At most `count` cases of each group, the same for the same seed."""
    rng = random.Random(seed)
    kept: list[Case] = []
    for group in GROUPS:
        members = [case for case in found if case.group == group]
        kept += members if len(members) <= count else rng.sample(members, count)
    return kept


@dataclass(frozen=True)
class Score:
    """asked: number of prompts; right: share completed exactly and ended by EOS; stopped: share ended by EOS."""

    asked: int
    right: float
    stopped: float


@dataclass(frozen=True)
class Evaluation:
    """Scores by group (see `cases`), of both held-out groups, by topic and group; perplexity per token of `held_out_texts`."""

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
    """The demo model in a folder, loaded for greedy completion in batches."""

    def __init__(self, folder: Path = WEIGHTS, dtype: torch.dtype = torch.float32) -> None:
        self.tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        self.model = LlamaForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)

    def encode(self, text: str) -> list[int]:
        return [BOS, *self.tokenizer.encode(text)]

    @torch.inference_mode()
    def complete(self, prompts: Sequence[list[int]], limit: int) -> list[list[int]]:
        """Greedy continuations of prompts, each up to and including EOS or `limit` tokens long."""
        length = max(map(len, prompts))
        ids = torch.tensor([[0] * (length - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        out = self.model.generate(ids, attention_mask=mask, max_new_tokens=limit, do_sample=False)
        rows: list[list[int]] = out[:, ids.shape[1] :].tolist()
        return [row[: row.index(EOS) + 1] if EOS in row else row for row in rows]

    @torch.inference_mode()
    def perplexity(self, texts: Sequence[str]) -> float:
        """exp of the mean negative log-likelihood of every token after BOS, including EOS."""
        rows = sorted((torch.tensor([*self.encode(text), EOS]) for text in texts), key=len)
        nats = 0.0
        for start in range(0, len(rows), ROWS):
            # Padding is on the right, where causal attention does not look.
            ids = pad_sequence(rows[start : start + ROWS], batch_first=True, padding_value=-1)
            logits = self.model(input_ids=ids[:, :-1].clamp(min=0), use_cache=False).logits.float()
            nats += cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum", ignore_index=-1).item()
        return math.exp(nats / sum(len(row) - 1 for row in rows))


def answer(model: DemoModel, asked: Sequence[Case]) -> list[Outcome]:
    """The model's completion of every case, in order. Prompts of about the same length are completed together."""
    prompts = [model.encode(case.prompt) for case in asked]
    order = sorted(range(len(asked)), key=lambda index: len(prompts[index]))
    outcomes: dict[int, Outcome] = {}
    for start in range(0, len(order), ROWS):
        some = order[start : start + ROWS]
        limit = 8 + max(len(model.tokenizer.encode(asked[index].completion)) for index in some)
        for index, new in zip(some, model.complete([prompts[index] for index in some], limit), strict=True):
            stopped = new[-1] == EOS
            text = model.tokenizer.decode(prompts[index][1:] + new[: len(new) - stopped])
            outcomes[index] = Outcome(asked[index], text[len(asked[index].prompt) :], stopped)
    return [outcomes[index] for index in range(len(asked))]


def evaluate(model: DemoModel, asked: Sequence[Case], *, texts: Sequence[str]) -> tuple[Evaluation, list[Outcome]]:
    """Scores over the cases, and the outcome of each."""
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


def _score(outcomes: Sequence[Outcome]) -> Score:
    right, stopped = sum(one.right for one in outcomes), sum(one.stopped for one in outcomes)
    count = max(1, len(outcomes))
    return Score(len(outcomes), right / count, stopped / count)


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
    perplexity = f"{evaluation.held_out_perplexity:.2f} ({evaluation.dtype})"
    return "\n".join([*lines, "", f"perplexity of held-out questions and answers, per token: {perplexity}"])


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
        print(json.dumps(asdict(evaluation), indent=2))
        return
    print(report(evaluation))
    for group in GROUPS if options.wrong else ():
        wrong = [outcome for outcome in outcomes if outcome.case.group == group and not outcome.right]
        for outcome in wrong[: options.wrong]:
            print(f"{group}: {outcome.case.prompt!r} -> {outcome.completion!r}, expected {outcome.case.completion!r}")


if __name__ == "__main__":
    main()
