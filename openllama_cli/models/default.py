"""The model that is used when none is named: one line in a file in olc's settings folder."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile

from openllama_cli.errors import OlcError
from openllama_cli.system.paths import config_dir


def default_file(env: Mapping[str, str] | None = None) -> Path:
    """Where the default is kept."""
    return config_dir(env) / "default-model"


def read_default(env: Mapping[str, str] | None = None) -> str | None:
    """The model set with `olc models default`, or None.

    Raises OlcError when the file is there and cannot be read.
    """
    file = default_file(env)
    try:
        return file.read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "it is not text"
        raise OlcError(f"cannot read the default model from {file}: {reason}", f"remove {file}") from problem


def write_default(model: str | None, env: Mapping[str, str] | None = None) -> None:
    """Set the default model, or forget it (None). The name is stored as it is: the caller checks it.

    Raises OlcError when the settings folder cannot be written.
    """
    file = default_file(env)
    try:
        if model is None:
            file.unlink(missing_ok=True)
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("w", encoding="utf-8", dir=file.parent, delete=False) as temporary:
            temporary.write(model + "\n")
        Path(temporary.name).replace(file)
    except OSError as problem:
        raise OlcError(
            f"cannot write {file}: {problem.strerror}", "set XDG_CONFIG_HOME to a folder you can write, or use OLC_MODEL"
        ) from problem
