"""Numbers as people read them."""


def figure(value: float) -> str:
    """A measured number with three digits, never in scientific notation: "0.0123", "47.1", "1,250"."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def clock(seconds: float) -> str:
    """A time to wait: "0:07", "1:02:03"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def count(number: int | None) -> str:
    """A number of parameters: "3.43 B", "4.72 M"; "" where it is not known."""
    if number is None:
        return ""
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.2f} M"
