"""How each command shows its result on a terminal: one module per command that needs more than a table or plain text.

A view gets finished values and writes them through `terminal.streams`; in a pipe it writes plain text. `complete`, which
streams a completion, is the shortest to read first.
"""
