"""The pieces of a Llama layer as C kernels for x86 processors, compiled when olc is installed if there is a C compiler: one
source over vectors of 8 or 16 floats, for each tier of `sources.py` (AMX, AVX-512 with BF16 and VNNI, AVX-512, AVX2).

In: contiguous CPU tensors of weights and activations. Out: new tensors. `matmul` has the linear layers, `layer` the rest of a
decoder layer, `decoder` all layers for a decode step; `library` says whether the kernels can be used. Everything works without
them, on torch's operators, but slower. Begin reading with `matmul.py`.
"""

# int4: inputs that share a scale and a zero point (every OpenLLaMA width is divisible by 64; 8640 is not by 128), and the block
# that a row is padded to in the kernels' own layout.
INT4_GROUP, INT4_BLOCK = 64, 128
