"""Models: which one, where it is, what format it has, its tokenizer, and loading it. No click, no rich."""
