"""GGUF, the format of llama.cpp: a Llama's settings, tokenizer and weights in one file, or in parts of it.

`header` reads what a file says of itself, `llama` makes a Llama of it, `blocks` decodes its weights. Begin with
`llama.read_gguf`. The types of weights and their decoding are those of the package gguf.
"""
