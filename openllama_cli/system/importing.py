"""Importing torch and transformers without searching for garbage meanwhile."""

import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def importing(module: str) -> Iterator[None]:
    """Python's garbage collector pauses in the block, which imports a module of torch or transformers.

    They make hundreds of thousands of objects, nearly all of which stay: searching them for cycles again and again takes a
    seventh of their time. Afterwards the collector is as it was, and all objects count as old. Nothing is changed where
    the module has been imported, where it is off, or where objects were frozen.
    """
    if module in sys.modules or not gc.isenabled() or gc.get_freeze_count():  # Counting goes through all that are frozen.
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.unfreeze()  # Into the oldest generation: else the next collections of young objects would go through all of them.
        gc.enable()
