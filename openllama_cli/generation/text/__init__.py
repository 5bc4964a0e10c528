"""Text from token ids: `stream` joins an engine of `decode`, which knows ids only, with a tokenizer.

In: an engine, a tokenizer and prompts. Out: `TextStep`s whose text is certain, and `Completion`s made of them, also in OpenAI's
form. Begin reading with `stream.py`.
"""
