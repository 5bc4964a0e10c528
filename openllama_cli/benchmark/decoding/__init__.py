"""Measurements of single parts of decoding, each a command: `python -m openllama_cli.benchmark.decoding.constraints`."""
