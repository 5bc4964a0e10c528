"""Shell lines that turn a file into what olc reads: they work as they are typed, with what is installed here."""

import json
import shlex
import shutil
from pathlib import Path

# Encodings by how a file in them begins. UTF-32's mark begins with UTF-16's.
_MARKS = [(b"\xff\xfe\0\0", "UTF-32"), (b"\0\0\xfe\xff", "UTF-32"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16")]
_SAMPLE = 256
# Of one document or several.
_ROWS = 'if type == "array" then .[] else . end'


def wide_encoding(head: bytes) -> str | None:
    """The encoding of a file that has two or four bytes for every letter, by how it begins: with a mark, or with NULs."""
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    sample = head[:_SAMPLE]
    for size, at, name in ((4, 0, "UTF-32LE"), (4, 3, "UTF-32BE"), (2, 0, "UTF-16LE"), (2, 1, "UTF-16BE")):
        # Of ASCII letters, all bytes but one are NUL.
        units = [sample[start : start + size] for start in range(0, len(sample) - size + 1, size)]
        rest = bytes(size - 1)
        if len(units) > 1 and all(unit[at : at + 1] != b"\0" and unit[:at] + unit[at + 1 :] == rest for unit in units[:8]):
            return name
    return None


def narrow_encoding(data: bytes) -> str:
    """What bytes that are no UTF-8 most likely are: Western European, as Windows or as ISO writes it."""
    try:
        data.decode("cp1252")
    except UnicodeDecodeError:
        return "ISO-8859-1"
    return "CP1252"


def to_utf8(path: Path, encoding: str) -> str:
    """The line that converts a text file."""
    source, target = files(path, "utf8")
    if shutil.which("iconv"):
        return f"iconv -f {encoding} -t UTF-8 {source} > {target}"
    code = f"import sys; sys.stdout.buffer.write(sys.stdin.buffer.read().decode('{encoding}').encode())"
    return f"{_python()} -c {shlex.quote(code)} < {source} > {target}"


def to_lines(path: Path) -> str:
    """The line that puts each object of a JSON document (or of an array in it) on its own line."""
    source, target = files(path.with_suffix(".jsonl"), "lines", path)
    if shutil.which("jq"):
        return f"jq -c {shlex.quote(_ROWS)} {source} > {target}"
    code = "import json, sys; d = json.load(sys.stdin); [print(json.dumps(x)) for x in (d if isinstance(d, list) else [d])]"
    return f"{_python()} -c {shlex.quote(code)} < {source} > {target}"


def to_newlines(path: Path) -> str:
    """The line that ends lines with LF instead of CR."""
    source, target = files(path, "lf")
    return rf"tr '\r' '\n' < {source} > {target}"


def to_state_dict(path: Path, key: str) -> str:
    """The line that leaves of a file of torch.save one entry, under the file's name; the whole file stays beside it."""
    count = 0
    while (whole := path.with_name(f"{path.name}.whole{count or ''}")).exists():
        count += 1
    source, target, name = (json.dumps(str(text), ensure_ascii=False) for text in (whole, path, key))
    code = f'import torch; torch.save(torch.load({source}, "cpu", weights_only=True)[{name}], {target})'
    return f"mv {_quoted(path)} {_quoted(whole)} && {_python()} -c {shlex.quote(code)}"


def _python() -> str:
    return next((name for name in ("python3", "python") if shutil.which(name)), "python3")


def files(named: Path, word: str, source: Path | None = None) -> tuple[str, str]:
    """A file and the one to make of it, quoted; the new name is one that nothing has yet. source: if it is not `named`."""
    count = 0
    while (target := named.with_name(f"{named.stem}.{word}{count or ''}{named.suffix}")).exists():
        count += 1
    return _quoted(source or named), _quoted(target)


def _quoted(path: Path) -> str:
    """For sh, bash, zsh and fish; a name that begins with a dash is no option then."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)
