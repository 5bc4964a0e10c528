"""A model on a machine: in come a model's name and a machine's `Facts`, out come how it fits and the command that runs it best.

Begin with `recommend.plan_model`. It plans every dtype with `memory` (weights and KV cache against free memory), which uses
`placement` (where device_map="auto" would put each layer).
"""
