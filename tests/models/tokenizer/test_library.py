"""Calling the `tokenizers` library: what several threads do to standard error."""

import os

from openllama_cli.models.tokenizer.library import without_panic_messages


def test_stderr_is_back_whichever_thread_leaves_last() -> None:
    before = os.fstat(2)
    first, second = without_panic_messages(), without_panic_messages()
    first.__enter__()
    second.__enter__()
    assert not os.path.samestat(os.fstat(2), before)
    first.__exit__(None, None, None)
    assert not os.path.samestat(os.fstat(2), before)
    second.__exit__(None, None, None)
    assert os.path.samestat(os.fstat(2), before)
