"""The names of the files beside OUTPUT."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class OutputFiles:
    """OUTPUT and the files that olc keeps beside it.

    output: where OUTPUT is after following links, so that two names of one file share one journal and one lock.
    """

    output: Path

    @classmethod
    def of(cls, path: Path) -> "OutputFiles":
        """The files of the OUTPUT that the user named."""
        return cls(Path(os.path.realpath(path)))

    @property
    def journal(self) -> Path:
        """The rows finished so far; afterwards one line that says that OUTPUT is complete."""
        return self._beside(".journal")

    @property
    def lock(self) -> Path:
        """Who is writing OUTPUT."""
        return self._beside(".lock")

    @property
    def spool(self) -> Path:
        """A copy of the input that came through stdin."""
        return self._beside(".input")

    @property
    def temporary(self) -> Path:
        """OUTPUT until it is whole."""
        return self._beside(".tmp")

    def _beside(self, suffix: str) -> Path:
        return self.output.with_name(self.output.name + suffix)
