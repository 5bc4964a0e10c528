"""How fast, how large and how exact things are on this machine: each `python -m` measurement, and what `olc bench` runs.

Begin with `runs` (jobs in turn, each in a fresh process, as a command line always starts cold; medians, ranges, paired ratios)
and `worker` (one measurement). `shapes` writes models with random weights. The other modules are run by themselves with
`python -m` and print JSON: `quality` (quantized weights), `journal` and `ray` (batches), `sgd`.
"""
