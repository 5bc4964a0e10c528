"""What `olc devices` finds: a machine in, its facts, a plan for a model, and the problems with their fixes out.

Begin with `report.examine`, which asks a probe of the machine (`machine/`), plans the named model on it (`planning/`) and turns
both into problems (`advice`); `report.document` is the JSON of it all. Only planning imports transformers, and only the
hardware's probe imports torch; nothing is downloaded and no weights are read.
"""
