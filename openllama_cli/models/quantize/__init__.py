"""`--quantize`: weights in 8 or 4 bits for the CPU. In comes a `Checkpoint`, out comes a `weights.QuantizedModel`.

Begin with `load.load_quantized`, which opens the copy that is kept on disk (`copies`) or makes it: `weights` says which tensors
become which, `rounding` rounds them and orders their bytes.
"""
