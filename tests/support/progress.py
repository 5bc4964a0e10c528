"""Progress that remembers."""


class Recorder:
    """What work reported, and the notices it gave.

    totals, counts: label → the bytes it announced, and those it advanced by. finished: pieces of work that have ended.
    """

    def __init__(self) -> None:
        self.totals: dict[str, int | None] = {}
        self.counts: dict[str, list[int]] = {}
        self.finished = 0
        self.notices: list[str] = []

    def start(self, label: str, total_bytes: int | None) -> None:
        self.totals[label], self.counts[label] = total_bytes, []

    def advance(self, count: int) -> None:
        self.counts[[*self.counts][-1]].append(count)

    def finish(self) -> None:
        self.finished += 1

    @property
    def labels(self) -> list[str]:
        return [*self.totals]
