"""olc: text completion with OpenLLaMA models from a shell."""

__version__ = "0.1.0"
