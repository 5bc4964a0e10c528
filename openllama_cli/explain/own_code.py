"""The user's own line in a traceback: the last frame that is no library's, as Python, IPython and rich print frames."""

import re
from dataclasses import dataclass

from openllama_cli.explain.lines import message, without_secrets

_LONGEST_CODE = 160
# A message may take some lines after the last frame; what stands further away has nothing to do with it.
_NEAR = 40
# As many lines IPython and rich show in front of the one that failed.
_CONTEXT = 8

# Compiled when they are needed, by re: most texts hold no traceback, and compiling takes milliseconds.
_FRAMES = (
    r'File "([^"]{1,500})", line (\d{1,7})',
    # IPython and rich: a path and its line, or a cell.
    r"(?:File )?((?:[A-Za-z]:)?[^\s:]{1,500}\.py):(\d{1,7})(?:, in | in )",
    r"((?:Cell|Input) In ?\[\d{1,6}\])(?:, line (\d{1,7})|, in )",
    r"(<ipython-input-\d{1,6}-[0-9a-f]{1,40}>|(?:[A-Za-z]:)?[^\s:]{1,500}\.py) in [\w<]",
)
# One of these is in every frame.
_MARKS = (".py", 'File "', "Cell In", "Input In", "<ipython")
# The line that an arrow marks among those that IPython and rich show around it.
_MARKED = r"(?:-{2,100}>|❱)\s?(\d{1,7})\s?[│|]?\s?(.*)"
_OF_A_LIBRARY = r"""(?xi)
    (?:site|dist)-packages[/\\] | [/\\]lib(?:64)?[/\\]python\d | [/\\]Python\d{1,3}[/\\]lib[/\\] | [/\\]bin[/\\][^/\\.]+$
    | \.exe[/\\]__main__\.py$ | transformers_modules | ^<(?!stdin>|string>|ipython)
    | [/\\](?:torch|transformers|accelerate|peft|huggingface_hub|tokenizers|safetensors)[/\\](?:[\w.-]+[/\\])+[\w.-]+$"""


@dataclass(frozen=True)
class OwnLine:
    """A line of the user's own code. file: as the traceback names it. code: None where the traceback does not show it."""

    file: str
    line: int
    code: str | None

    def __str__(self) -> str:
        name = re.split(r"[/\\]", self.file)[-1]
        return f"{name}:{self.line}" + (f": {self.code}" if self.code else "")


class OwnCode:
    """Follows a text line by line and knows the last own line of the traceback that is being read."""

    def __init__(self) -> None:
        # File, line and code, with their secrets.
        self._own: tuple[str, int, str | None] | None = None
        # The frame whose code comes next, how many lines ago it was, and the number of the last line of any frame.
        self._frame: tuple[str, int, str | None] | None = None
        self._since = 0
        self._last = 0

    def may_be_in(self, text: str) -> bool:
        """Whether the next lines, given as one text, have to be read."""
        return self._frame is not None or "Traceback (most recent" in text or any(mark in text for mark in _MARKS)

    def read(self, number: int, line: str) -> None:
        """Read the next line."""
        self._since += 1
        if "Traceback" in line and "Traceback (most recent" in line:
            self._own = self._frame = None
        elif any(mark in line for mark in _MARKS) and self._is_frame(number, line):
            return
        elif self._frame is not None:
            self._read_code(line)

    def near(self, number: int) -> OwnLine | None:
        """The last own line of the traceback that ends at this line of the text, without secrets."""
        if self._own is None or number - self._last > _NEAR:
            return None
        file, line, code = self._own
        return OwnLine(without_secrets(file), line, without_secrets(code)[:_LONGEST_CODE] if code else None)

    def _is_frame(self, number: int, line: str) -> bool:
        place = line.find('File "')
        text = line[place:] if place >= 0 else message(line)
        for frame in _FRAMES:
            if found := re.match(frame, text):
                file, at = found[1], int(found[2] or 0) if found.re.groups > 1 else 0
                self._frame = None if re.search(_OF_A_LIBRARY, file) else (file, at, None)
                self._since, self._last = 0, number
                # Without its number yet, an arrow gives it.
                if self._frame is not None and at:
                    self._own = self._frame
                return True
        return False

    def _read_code(self, line: str) -> None:
        assert self._frame is not None
        file, at, _ = self._frame
        text = message(line)
        if marked := re.search(_MARKED, line):
            self._own = file, int(marked[1]), marked[2].strip(" │|")
        elif at and self._since == 1 and text and not text[0].isdigit():
            self._own = file, at, text.strip(" │|")
        elif self._since <= _CONTEXT:
            return
        self._frame = None
