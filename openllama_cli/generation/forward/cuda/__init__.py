"""Decoding on an NVIDIA GPU: KV caches in fixed slots, attention over them, and decode steps captured as CUDA graphs.

In: a model on the GPU in 16 bits. Out: a forward pass as `forward.lean.LeanForward`, faster. Begin reading with `graphs.py`.
"""
