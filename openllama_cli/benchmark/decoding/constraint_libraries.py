"""llguidance beside other libraries for constraints: `python -m openllama_cli.benchmark.decoding.constraint_libraries NAME`.

Processor time of compiling and of each token, and the memory of the process, over the vocabulary and cases of `constraints`.
NAME is llguidance, outlines_core or xgrammar, which has to be installed; the last two have no grammars. One a process: each has
memory of its own. What came out: docs/architecture.md.
"""

import argparse
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from openllama_cli.benchmark.decoding.constraints import CASES, trained
from openllama_cli.generation.constraints.config import Kind
from openllama_cli.generation.constraints.vocabulary import Vocabulary
from openllama_cli.models.tokenizer.base import Tokenizer
from openllama_cli.models.tokenizer.open import open_tokenizer

# What compiles a case, and what makes a mask of it and takes a token: false if the token is not allowed.
Compile = Callable[[Kind, str], Any]
Step = Callable[[Any, int], Any]


def llguidance(tokenizer: Tokenizer) -> tuple[Compile, Step]:
    """As olc uses it."""
    from openllama_cli.generation.constraints import library
    from openllama_cli.generation.constraints.config import Constraint

    trie = library.token_trie(Vocabulary(tokenizer).texts)

    def step(one: Any, token: int) -> Any:
        one.compute_bitmask()
        return one.consume_token(token)

    return lambda kind, source: library.parser(trie, Constraint(kind, source).compiled), step


def outlines_core(tokenizer: Tokenizer) -> tuple[Compile, Step]:
    """An automaton over the whole vocabulary."""
    from outlines_core import Guide, Index
    from outlines_core import Vocabulary as Known
    from outlines_core.json_schema import build_regex_from_schema

    ids: dict[bytes, list[int]] = {}
    for token, data in enumerate(Vocabulary(tokenizer).texts):
        if data:
            ids.setdefault(data, []).append(token)
    known = Known(min(tokenizer.eos_ids), ids)

    def step(one: Any, token: int) -> Any:
        one.get_tokens()
        return one.advance(token)

    return lambda kind, source: Guide(Index(source if kind == "regex" else build_regex_from_schema(source), known)), step


def xgrammar(tokenizer: Tokenizer) -> tuple[Compile, Step]:
    """Masks that are computed beforehand, and a pushdown automaton."""
    import xgrammar as xgr

    pieces = [tokenizer.piece(token) for token in range(tokenizer.vocab_size)]
    ends = [min(tokenizer.eos_ids)]
    about = xgr.TokenizerInfo(pieces, vocab_type=xgr.VocabType.BYTE_FALLBACK, vocab_size=len(pieces), stop_token_ids=ends)
    compiler = xgr.GrammarCompiler(about, max_threads=1)
    mask = xgr.allocate_token_bitmask(1, len(pieces))

    def compiled(kind: str, source: str) -> Any:
        return xgr.GrammarMatcher((compiler.compile_regex if kind == "regex" else compiler.compile_json_schema)(source))

    def step(one: Any, token: int) -> Any:
        one.fill_next_token_bitmask(mask)
        return one.accept_token(token)

    return compiled, step


LIBRARIES = {"llguidance": llguidance, "outlines_core": outlines_core, "xgrammar": xgrammar}


def measure(name: str, tokenizer: Tokenizer) -> Iterator[tuple[str, float, list[float]]]:
    """Of each case its name, seconds to compile it, and seconds for each token of its text."""
    compiled, step = LIBRARIES[name](tokenizer)
    for kind, source, text in CASES:
        if kind == "grammar" and name != "llguidance":
            continue
        began = time.process_time()
        one = compiled(kind, source)
        seconds = time.process_time() - began
        times = []
        for token in tokenizer.encode("a" + text, bos=False)[len(tokenizer.encode("a", bos=False)) :]:
            began = time.process_time()
            allowed = step(one, token)
            times.append(time.process_time() - began)
            assert allowed is not False
        yield kind, seconds, times


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the times; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m openllama_cli.benchmark.decoding.constraint_libraries", description=__doc__
    )
    parser.add_argument("library", choices=sorted(LIBRARIES))
    parser.add_argument("folder", nargs="?", type=Path, help="a model folder whose tokenizer is used")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = open_tokenizer(given.folder or trained(Path(folder)))
        for kind, seconds, times in measure(given.library, tokenizer):
            median, most = statistics.median(times) * 1e3, max(times) * 1e3
            each = f"a token {median:.3f} ms, at most {most:.2f} ms ({len(times)} tokens)"
            print(f"{given.library} {kind:12} {seconds * 1e3:6.1f} ms to compile; {each}")
        print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
