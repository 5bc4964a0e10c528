"""What `--check` of several commands reports of a comparison with `model.generate`."""

from typing import TYPE_CHECKING

from openllama_cli.errors import OlcError
from openllama_cli.terminal.streams import hint

if TYPE_CHECKING:
    from openllama_cli.generation.decode.reference import Check


def verdict(one: "Check") -> str:
    """Whether the tokens of a prompt are equal, for a table."""
    place, margin = one.first_difference, one.margin
    found = "equal" if place is None else f"differ from token {place + 1}"
    return found if margin is None else f"{found} (margin {margin:.2g})"


def report_differing(differing: int, prompts: int, dtype: str) -> None:
    """Say how many prompts differ. Raises OlcError if any does in float32, where none may."""
    if differing and dtype == "float32":
        raise OlcError(
            f"{differing} of {prompts} prompts differ from model.generate or a full forward pass in float32",
            "please report this with the command and `olc models info`",
            code="check_failed",
        )
    if differing:
        hint(f"{differing} of {prompts} differ in {dtype}, where rounding decides close calls; try --dtype float32")
