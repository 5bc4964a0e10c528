"""The two lines said about a checkpoint file that cannot be used."""

from pathlib import Path

from openllama_cli.errors import ModelError


def damaged(file: Path, what: str) -> ModelError:
    """A ModelError saying what is wrong with a file, and how to get it again."""
    return ModelError(f"{file} {what}", fetch_again(file))


def fetch_again(file: Path) -> str:
    """What to do about a broken file: a file in the Hub's cache is pulled again, any other one is the user's to copy."""
    for part in file.parts:
        if part.startswith("models--"):
            repo = part.removeprefix("models--").replace("--", "/")
            return f"remove it and download it again: olc models rm {repo} && olc models pull {repo}"
    return f"copy {file.name} again from where it came from, and compare its size and checksum"
