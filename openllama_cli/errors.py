"""The errors that olc expects, and what each means for the exit code.

    OlcError            1   the work failed
    ├── UsageError      2   wrong usage, found before torch is imported
    ├── ModelError      1   a model, tokenizer or checkpoint that cannot be used
    ├── HubError        1   the Hugging Face Hub could not be reached, or refused
    ├── GenerationError 1   a row that could not be generated
    └── RowsFailedError 3   a batch that finished, with failed rows

Each carries a cause (what happened, with the names and numbers) and a remedy (what to type or change). `cli.main` prints
them as two lines; every other exception is a bug and keeps its traceback.
"""


class OlcError(Exception):
    """An expected failure.

    cause: one line saying what went wrong, with names and numbers, no full stop needed.
    remedy: one line saying what to do about it: a command, a flag or a change.
    code: a short stable identifier for machines (batch error rows, `olc explain`), e.g. "context_length_exceeded".
    """

    exit_code = 1
    code = "error"

    def __init__(self, cause: str, remedy: str, *, code: str | None = None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.remedy = remedy
        # A traceback (--debug, or a script's) prints the second line too.
        self.add_note(f"  fix: {remedy}")
        if code is not None:
            self.code = code


class Terminated(BaseException):
    """SIGTERM: unwinds like Ctrl-C, so that files are closed and locks released, and ends with 143."""


class UsageError(OlcError):
    """Wrong usage: options, arguments or input that cannot be used, whatever the model."""

    exit_code = 2
    code = "usage"


class ModelError(OlcError):
    """A model, tokenizer or checkpoint that is missing, broken or not a Llama."""

    code = "model"


class HubError(OlcError):
    """The Hub did not answer, refused, or sent something that does not match its checksum."""

    code = "hub"


class GenerationError(OlcError):
    """One row that could not be generated, such as NaN logits."""

    code = "generation"


class RowsFailedError(OlcError):
    """A batch that was finished, with rows that failed."""

    exit_code = 3
    code = "rows_failed"


def first_line(problem: object, limit: int = 200) -> str:
    """What an exception or a warning says, in one line of at most `limit` characters; its type's name if it says nothing."""
    lines = str(problem).strip().splitlines()
    return lines[0].strip()[:limit] if lines else type(problem).__name__
