"""Sampling on the command line: its options, and hints about what spoils a text."""
