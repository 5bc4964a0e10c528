"""Two outputs, row by row: which rows are equal, where the others part, and what else differs that may be why.

`lines.open_lines` makes JSON lines of any output, `entries.entries` reads their rows, `difference.differences_of` matches the
rows of two sides and yields those that are not equal; `surroundings` is what the files tell of model and options.
"""
