"""What `importing` does to the garbage collector, in a process that has imported little: searching all of a worker's objects
takes seconds. `python -m tests.system.pauses NAME` runs one of these.
"""

import contextlib
import gc
import sys
import weakref

from openllama_cli.system.importing import importing

NEW = "torch.that_nobody_has_imported"


class Cycle:
    def __init__(self) -> None:
        self.itself = self


def nothing_is_collected_while_importing_and_everything_afterwards() -> None:
    before = weakref.ref(Cycle())
    with importing(NEW):
        assert not gc.isenabled()
        full = gc.get_stats()[2]["collections"]
        inside = weakref.ref(Cycle())
        kept: list[list[int]] = [[] for _ in range(100_000)]  # Many times what makes Python collect.
        assert inside() is not None
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    assert gc.get_stats()[2]["collections"] == full
    assert all(one is not kept for one in gc.get_objects(generation=0))  # It is an old object.
    gc.collect()
    assert (before(), inside()) == (None, None)


def the_collector_runs_again_after_an_import_that_failed() -> None:
    for error in (ImportError, KeyboardInterrupt, SystemExit):
        with contextlib.suppress(error), importing(NEW):
            raise error
        assert gc.isenabled()
        assert gc.get_freeze_count() == 0


def a_collector_that_is_off_stays_off() -> None:
    gc.disable()
    with importing(NEW):
        pass
    assert not gc.isenabled()


def what_has_been_imported_needs_no_pause() -> None:
    with importing("gc"):
        assert gc.isenabled()


def frozen_objects_stay_frozen() -> None:
    gc.freeze()
    frozen = gc.get_freeze_count()
    with importing(NEW):
        assert gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() >= frozen - 1000  # Some have ended meanwhile; none is searched again.


def one_import_inside_another() -> None:
    with importing(NEW):
        with importing(NEW):
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
