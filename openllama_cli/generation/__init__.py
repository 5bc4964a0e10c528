"""From an opened model and prompts to text: loading the weights, forward passes, the decode loop, text as it becomes certain.

In: a `models.opened.OpenedModel` and prompts as token ids. Out: a step per token, with text, log-probabilities and why a row
ended. Begin reading with `session.py`, which is all that most callers need, together with `text.stream.stream`.
"""
