"""A row in flight: how its next token is chosen, when that one is taken back, and when the row ends."""

from dataclasses import dataclass, field, replace

import torch

from openllama_cli.errors import OlcError
from openllama_cli.generation.decode.processors import Place, Stage
from openllama_cli.generation.decode.repetition import LoopGuard
from openllama_cli.generation.decode.request import GO_ON, FinishReason, Request, Scored, Step, Verdict, score
from openllama_cli.generation.decode.sampling import choose_token, log_probabilities
from openllama_cli.generation.decode.trace import trace_of
from openllama_cli.generation.forward.cache import KVCache


@dataclass
class ActiveRow:
    """tokens: prompt and completion. left: tokens that may still be generated. at_limit: why the row ends when none is.

    A banned text is known to be one only when it is complete, some tokens after it began. Until then the steps of these tokens
    are held back, so that nobody sees a token that is taken back, with the logits that they were chosen from: another one is
    chosen from the same numbers, whatever ran beside it.
    """

    request: Request
    cache: KVCache
    tokens: list[int]
    left: int
    at_limit: FinishReason
    generator: torch.Generator | None
    finished: bool = False
    _held: list[tuple[Step, torch.Tensor]] = field(init=False, default_factory=list)
    # By position: what is not drawn there any more.
    _ruled_out: dict[int, list[int]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._guard = LoopGuard() if self.request.sampling.loop_guard else None
        self._ends = self.request.eos | frozenset(self.request.sampling.stop_token_ids)
        self._may_take_back = bool(self.request.sampling.ban)

    def sample(self, logits: torch.Tensor) -> list[Step]:
        """Choose the next token from [vocab] logits; what is certain now, with the row's end if this is it.

        The cache keeps what was run of tokens that were taken back.
        """
        request = self.request
        try:
            while True:
                step = self._choose(logits)
                assert step.scored is not None
                token = step.scored.token
                if self._may_take_back:
                    logits = logits.clone()  # Of one row: a view would keep those of all.
                # Last: nothing may fail once the watcher knows the token.
                verdict = GO_ON if token in self._ends or request.watch is None else request.watch(token)
                if not verdict.rollback:
                    break
                logits = self._take_back(token, logits, verdict.rollback)
        except OlcError as error:  # Non-finite logits, nothing left to draw, or a token that the tokenizer does not know.
            self.finished = True
            return [Step(request.row, error=error)]
        return self._keep(replace(step, finish_reason=self._reason(token, verdict)), logits, verdict)

    def _choose(self, logits: torch.Tensor) -> Step:
        request = self.request
        prompt, count = len(request.tokens), request.sampling.logprobs
        vocabulary = logits.shape[-1]
        banned = request.banned(logits)
        place = Place(
            seen=self.tokens,
            prompt=prompt,
            pieceless=banned,
            never=self._never(),
            masks=[mask for one in request.constraints if (mask := one.mask(vocabulary)) is not None],
            breakers=request.breakers,
        )
        recorded: list[Stage] = []
        record = None if request.trace is None else lambda name, changed: recorded.append((name, changed))
        token = choose_token(logits, place, request.sampling, self.generator, record)
        scored = Scored(token) if count is None else score(token, log_probabilities(logits), count, banned)
        trace = None if request.trace is None else trace_of(logits, recorded, token, request.trace)
        return Step(request.row, scored, trace=trace)

    def _never(self) -> list[int]:
        """Ids that are not drawn at this position."""
        sampling = self.request.sampling
        never = list(self._ruled_out.get(len(self.tokens), ()))
        if len(self.tokens) - len(self.request.tokens) < sampling.min_tokens:
            never += self._ends
        elif sampling.ignore_eos:
            never += self.request.eos
        return never

    def _take_back(self, token: int, logits: torch.Tensor, count: int) -> torch.Tensor:
        """Forget the last `count` tokens, this one included, of which the first is ruled out; the logits of its position."""
        place = len(self.tokens) - (count - 1)
        if count > 1:
            token = self.tokens[place]
            logits = self._held[-(count - 1)][1]
            del self.tokens[place:], self._held[-(count - 1) :]
            self.left += count - 1
            for constraint in self.request.constraints:
                constraint.take_back(count - 1)
            if self._guard is not None:
                self._guard.take_back(count - 1)
        # What was ruled out after another token says nothing here.
        self._ruled_out = {position: ids for position, ids in self._ruled_out.items() if position <= place}
        self._ruled_out.setdefault(place, []).append(token)
        return logits

    def _reason(self, token: int, verdict: Verdict) -> FinishReason | None:
        """Keep a token. Why the row ends with it, if it does: EOS before what the text says, that before a
        complete match, and that before a limit.
        """
        request = self.request
        self.tokens.append(token)
        self.left -= 1
        for constraint in request.constraints:
            constraint.push(token)
        circles = self._guard is not None and self._guard.push(token)
        limit: FinishReason | None = "repetition" if circles else self.at_limit if self.left == 0 else None
        reason = ending(request, token, verdict, "stop" if any(one.finished for one in request.constraints) else limit)
        self.finished = reason is not None
        return reason

    def _keep(self, step: Step, logits: torch.Tensor, verdict: Verdict) -> list[Step]:
        """Hold a step back with those that are uncertain; give out the others."""
        self._held.append((step, logits))
        certain = len(self._held) - (0 if self.finished else verdict.uncertain)
        steps = [one for one, _ in self._held[:certain]]
        del self._held[:certain]
        return steps


def ending(request: Request, token: int, verdict: Verdict, limit: FinishReason | None) -> FinishReason | None:
    """Why a row ends with this token, if it does: EOS has precedence over a stop string, and that over a limit."""
    if token in request.eos:
        return "eos"
    return "stop" if token in request.sampling.stop_token_ids else verdict.reason or limit
