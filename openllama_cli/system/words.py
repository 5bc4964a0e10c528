"""Numbers as people read them, in messages. (`terminal`, which knows no other package, has a `size` of its own.)"""


def size(count: float) -> str:
    """A number of bytes in powers of 1000, as disks and the Hub count them: "999 B", "16.2 MB", "6.9 GB", "123 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")
