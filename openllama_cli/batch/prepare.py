"""From a row as it was read to what runs for it: token ids, options with ids for texts, or the error that stands for them."""

from dataclasses import dataclass, replace

from openllama_cli.batch.input.rows import Row, RowError
from openllama_cli.errors import OlcError
from openllama_cli.generation.choices.branches import branch
from openllama_cli.generation.decode.config import SamplingConfig, as_fields
from openllama_cli.generation.text.scoring import prepare
from openllama_cli.generation.text.token_ids import resolve
from openllama_cli.models.tokenizer.base import Tokenizer


@dataclass(frozen=True)
class Prepare:
    """Prepares rows. context: the model's, in tokens. vocabulary: how many token ids its embedding has."""

    tokenizer: Tokenizer
    context: int
    vocabulary: int

    def __call__(self, row: Row) -> Row:
        """The row with what runs for it. Raises RowError where it cannot run."""
        if row.error is not None or (row.choices is None and row.scoring is None):
            return replace(row, tokens=self._tokens(row), sampling=self._sampling(row))
        try:
            if row.scoring is not None:
                context, stride = row.scoring
                prepared = prepare(self.tokenizer, row.prompt or "", context, positions=self.context, stride=stride)
                return replace(row, tokens=tuple(prepared.tokens), prepared=prepared)
            assert row.choices is not None
            branched = branch(self.tokenizer, row.prompt or "", row.choices, self.context)
        except OlcError as error:
            raise RowError(error.code, error.cause) from error
        return replace(row, tokens=branched.prompt, branches=branched.branches)

    def _tokens(self, row: Row) -> tuple[int, ...]:
        """The prompt's token ids. Raises RowError where the row cannot run."""
        if row.error is not None:
            raise row.error
        assert row.sampling is not None
        try:
            tokens = row.tokens if row.tokens is not None else tuple(self.tokenizer.encode(row.prompt or ""))
        except OlcError as error:
            raise RowError(error.code, error.cause) from error
        if row.tokens is not None and (highest := max(row.tokens)) >= self.vocabulary:
            message = f"token id {highest} is outside the model's vocabulary, 0 to {self.vocabulary - 1}"
            raise RowError("token_id_out_of_range", message)
        length, most = len(tokens), row.sampling.max_tokens
        # A length that nobody asked for ends where the context does; one token is the least that there is.
        least = most if row.fixed_length else min(most, 1)
        if length + least > self.context:
            given = f"; with max_tokens {most} that is {length + most}" if row.fixed_length else ""
            message = f"the prompt has {length} tokens{given}, more than the model's context of {self.context} has room for"
            raise RowError("context_length_exceeded", message)
        return tokens

    def _sampling(self, row: Row) -> SamplingConfig:
        """The row's options, with ids for texts. Raises RowError."""
        assert row.sampling is not None
        try:
            return resolve(row.sampling, self.tokenizer, self.vocabulary)
        except OlcError as error:
            raise RowError(error.code, as_fields(f"{error.cause}; {error.remedy}")) from error
