"""Mini-batch stochastic gradient descent from scratch: a network of sigmoid neurons on handwritten digits.

In come a `config.SgdConfig` and image files (or the digits shipped with olc); out come epochs with cost and accuracy, a check,
an explanation or an SVG. Begin with `network`, the algorithm itself in 150 lines. Around it: `idx` and `digits` (the data),
`training` (epochs and their results, divergence), `check` (against finite differences and torch; the only module that uses
torch), `explain` (one update, number by number), `plot` (an SVG).
"""
