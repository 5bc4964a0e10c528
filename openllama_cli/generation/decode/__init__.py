"""Token ids in, one event per token out: the decode loop, sampling, and `model.generate` as the reference for both.

Nothing here knows text. Begin reading with `loop.py`; `active_row.py` has what happens to a row at each token, `processors.py`
what happens to its logits, in which order; `config.py` has the settings of a row and the defaults of the program.
"""
