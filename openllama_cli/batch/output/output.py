"""OUTPUT and the files beside it: what is refused before a model is loaded, and how finished rows become a file."""

import contextlib
import errno
import hashlib
import json
import os
import shlex
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from openllama_cli.batch.journal.disk import replacing
from openllama_cli.batch.journal.format import OutputRecord
from openllama_cli.batch.journal.journal import Journal
from openllama_cli.batch.output.formats import check_suffix, encode
from openllama_cli.errors import OlcError, UsageError

# What a system answers that has no files without a name (None: it does not even know the flag).
_NO_TMPFILE = {None, errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL}


@dataclass(frozen=True)
class OutputFiles:
    """OUTPUT and the files that olc keeps beside it.

    output: where OUTPUT is after following links, so that two names of one file share one journal and one lock.
    journal: the rows finished so far; afterwards one line that marks OUTPUT as complete. lock: who is writing OUTPUT.
    spool: a copy of the input that came through stdin. temporary: OUTPUT until it is complete. record: what it was made with.
    """

    output: Path
    journal: Path
    lock: Path
    spool: Path
    temporary: Path
    record: Path

    @classmethod
    def of(cls, path: Path) -> "OutputFiles":
        """The files of the OUTPUT that the user named."""
        output = Path(os.path.realpath(path))
        suffixes = (".journal", ".lock", ".input", ".tmp", ".record.json")
        return cls(output, *(output.parent / (output.name + suffix) for suffix in suffixes))


def check_output(path: Path, input_path: Path | None, *, restart: bool = False) -> OutputFiles:
    """Refuse an OUTPUT that could not be written, or must not be. input_path: None if the input came through stdin.

    Raises UsageError: its folder is missing or not writable; it is a folder or a device; it is the input, also through a
    link, or the input is one of the files beside it; it exists and no journal says that this command made it (restart allows
    that).
    """
    check_suffix(path)
    files = OutputFiles.of(path)
    try:
        _check_kind(path, files.output)
        if input_path is not None:
            _check_input(path, files, input_path)
        if files.output.exists() and not files.journal.exists() and not restart:
            raise UsageError(
                f"{path} exists but was not written by this command: there is no journal beside it",
                "choose another -o, or overwrite it with --restart",
                code="output_exists",
            )
        _check_writable(files)
    except OSError as problem:
        raise UsageError(
            f"cannot write {files.output.name} in {files.output.parent}: {problem.strerror}",
            "choose an -o with a short name, in a folder that you can write to and that has space",
            code="output_unwritable",
        ) from problem
    return files


def open_journal(
    files: OutputFiles, header: Mapping[str, object], rows: int, *, retry_errors: bool = False, restart: bool = False
) -> Journal:
    """The journal of OUTPUT, as `Journal.open`, with what only a look at OUTPUT can tell.

    A journal that says "complete" while OUTPUT was removed is started over. Raises UsageError when OUTPUT was changed since it
    was completed (code "output_changed"), or when OUTPUT is there and the journal has no rows, though it did not begin over it
    ("journal_damaged").
    """
    over = restart and files.output.exists()
    journal = Journal.open(files.journal, header, rows, retry_errors=retry_errors, restart=restart, over=over)
    if journal.output is not None and not files.output.exists():
        journal = Journal.open(files.journal, header, rows, restart=True)
    elif journal.output is not None and not is_output(files.output, journal.output):
        raise UsageError(
            f"{files.output} was changed after it was completed",
            "choose another -o to keep it, or generate it again with --restart",
            code="output_changed",
        )
    elif not (journal.counts.done or journal.over or retry_errors) and files.output.exists():
        # It may have said "complete": hours of work are not repeated, over a finished file, without being asked to.
        journal.close()
        raise UsageError(
            f"{files.journal} has no rows, but {files.output.name} exists: the journal was damaged, or is another run's",
            "choose another -o to keep it, or generate it again with --restart",
            code="journal_damaged",
        )
    return journal


def write_output(
    journal: Journal, path: Path, record: Callable[[OutputRecord], Mapping[str, object]] | None = None
) -> OutputRecord:
    """Write the rows of a journal to `path` in the order of the input, in the format of its suffix; the file appears complete,
    in one step.

    record: makes the document of the record beside it, which is there before OUTPUT is and names its hash.
    All rows must be done. If none failed the journal is then closed, and reduced to a line that marks OUTPUT as complete;
    else it is kept for --retry-errors. Streams: no more than a row is in memory. Raises OlcError, with OUTPUT as it was and the
    journal kept.
    """
    files = OutputFiles.of(path)
    journal.sync()
    digest = hashlib.sha256()
    size = 0
    with replacing(files.output, files.temporary) as file:
        for part in encode(path, journal.lines):
            digest.update(part)
            size += file.write(part)
        written = OutputRecord(journal.rows, size, digest.hexdigest())
        if record is not None:
            with replacing(files.record) as beside:
                beside.write(json.dumps(record(written), indent=1).encode() + b"\n")
    if not journal.counts.failed:
        # OUTPUT is there: a disk too full for one more line only means that the next run writes it again from the journal.
        with contextlib.suppress(OlcError):
            journal.finish(written)
    return written


def is_output(path: Path, output: OutputRecord) -> bool:
    """Whether a file is what was written as OUTPUT."""
    try:
        if path.stat().st_size != output.bytes:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == output.sha256
    except OSError as problem:
        raise OlcError(f"{path} cannot be read: {problem.strerror}", "check it and its permissions") from problem


def _check_kind(path: Path, output: Path) -> None:
    folder = output.parent
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UsageError(
            f"the folder of {path}, {folder}, {what}", f"create it first: mkdir -p {shlex.quote(str(folder))}", code="no_folder"
        )
    if output.is_dir():
        raise UsageError(f"{path} is a folder", f"name a file in it, such as -o {path / 'output.jsonl'}", code="output_kind")
    if output.exists() and not stat.S_ISREG(output.stat().st_mode):
        raise UsageError(
            f"{path} is a device or a pipe; OUTPUT must be a file",
            "give -o a file name",
            code="output_kind",
        )


def _check_input(path: Path, files: OutputFiles, input_path: Path) -> None:
    ours = {
        files.output: "the same file as OUTPUT",
        files.journal: "the journal of OUTPUT",
        files.lock: "the lock of OUTPUT",
        files.temporary: "the draft of OUTPUT",
        files.record: "the record of OUTPUT",
    }
    for file, what in ours.items():
        if _same(file, input_path):
            raise UsageError(f"INPUT {input_path} is {what} {path}", "choose another -o", code="output_is_input")


def _same(one: Path, other: Path) -> bool:
    """Whether two names are of one file: through links of either kind, and in another case where case means nothing."""
    try:
        return one.samefile(other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)


def _check_writable(files: OutputFiles) -> None:
    """Write a file beside OUTPUT that nothing is left of, not even by a kill: it has no name where the system allows that."""
    folder, longest = files.output.parent, files.record.name + ".tmp"
    if len(os.fsencode(longest)) > os.pathconf(folder, "PC_NAME_MAX"):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o600)
    except (AttributeError, OSError) as problem:
        if getattr(problem, "errno", None) not in _NO_TMPFILE:
            raise
        probe = files.output.with_name(f"{files.output.name}.{os.getpid():011d}")
        descriptor = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        probe.unlink(missing_ok=True)
    try:
        os.write(descriptor, b"olc")
    finally:
        os.close(descriptor)
