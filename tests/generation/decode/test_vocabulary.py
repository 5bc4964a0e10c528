"""Which ids are never drawn."""

import gc
import weakref

import torch

from openllama_cli.generation.decode.vocabulary import banned_ids, banned_index

EOS, CPU = frozenset({2}), torch.device("cpu")


class Pieces:
    def pieceless(self, rows: int) -> frozenset[int]:
        return frozenset({2, *range(5, rows)})


def test_banned_ids_are_computed_once_and_do_not_keep_the_tokenizer() -> None:
    pieces = Pieces()
    assert banned_ids(pieces.pieceless, EOS, 7) == (5, 6)
    assert banned_ids(pieces.pieceless, frozenset(), 6) == (2, 5)
    assert banned_index(pieces.pieceless, EOS, 7, CPU) is banned_index(pieces.pieceless, EOS, 7, CPU)
    gone = weakref.ref(pieces)
    del pieces
    gc.collect()
    assert gone() is None
