"""Mini-batch stochastic gradient descent from scratch: a network of sigmoid neurons, its data, its proof and its lesson.

`network` is the lesson itself. Around it: `config` (what may be asked), `idx` and `digits` (the data), `training` (epochs
with their results, divergence), `check` (against finite differences and torch), `explain` (one update, number by number),
`plot` (an SVG), `benchmark` (against one sample at a time). Only `check` uses torch.
"""
