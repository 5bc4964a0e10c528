"""A file of prompts in, a file of completions out: readers, checks, journal, schedule and runner of `olc batch`."""
