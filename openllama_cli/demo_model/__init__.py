"""The built-in demo model: a Llama of 3.4 million parameters that answers questions about the facts in `facts/`.

`weights/` holds the model, README.md is its card. Begin with `corpus` (the facts and their phrasings); `examples` turns them
into prompts and completions, `train` trains tokenizer and network on these and writes `files`, `evaluate` asks what it knows.
"""
