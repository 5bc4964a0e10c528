"""The weights of a checked folder in memory. In comes a folder and a `ModelSpec`, out comes a `load.LoadedModel`.

Begin with `load.load`: it chooses device and type, then calls `from_pretrained` (transformers) or `quantize`. `startup` and
`ranks` are what is done before torch is imported: environment, reading ahead, and torchrun's processes.
"""
