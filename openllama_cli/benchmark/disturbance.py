"""How busy the machine was with other work while something was measured."""

import os
import resource
import time
from dataclasses import dataclass

# What Linux counts in others too (guests in user and nice), or what is no work.
_NO_WORK = ("idle", "iowait", "guest", "guest_nice")


@dataclass(frozen=True)
class Disturbance:
    """load_average: processes that ran or waited in the minute before, None where the system does not say. cores: how many were
    taken meanwhile, on average, by other processes than this one and its children; by a virtual machine's host too.
    """

    load_average: float | None
    cores: float


class Watch:
    """Begins when it is made. Children count as one's own once they have been waited for."""

    def __init__(self) -> None:
        self._load_average = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        self._begun, self._others = time.monotonic(), _seconds_of_others()

    def end(self) -> Disturbance:
        """What there was since the beginning."""
        seconds = max(time.monotonic() - self._begun, 1e-9)
        return Disturbance(self._load_average, max(0.0, _seconds_of_others() - self._others) / seconds)


def _seconds_of_others() -> float:
    """Processor time since the system started, of all cores, without that of this process and its children."""
    import psutil

    spent = sum(seconds for name, seconds in psutil.cpu_times()._asdict().items() if name not in _NO_WORK)
    own = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return float(spent - own)
