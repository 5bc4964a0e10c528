"""The pieces of a Llama's layer in C, for x86 processors with AMX: compiled when olc is installed, if there is a C compiler.

Everything that this gives works without it, with torch's operators, more slowly.
"""

# Inputs of int4 weights that share a scale and a zero: every OpenLLaMA width is divisible by 64 (8640 is not by 128). A row in
# the kernels' own layout is filled up to a multiple of the block.
INT4_GROUP, INT4_BLOCK = 64, 128
