"""The version of olc, by itself so that every package may read it."""

__version__ = "0.2.0"
