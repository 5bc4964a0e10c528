"""Matrix products in C, for x86 processors with AMX: compiled when olc is installed, if there is a C compiler.

Everything that this gives works without it, with torch's operators, more slowly.
"""
