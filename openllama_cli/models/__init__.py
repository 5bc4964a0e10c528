"""Models: which one, where it is, what its files hold, its tokenizer, and its weights in memory.

In comes a `spec.ModelSpec`, what the user asked for; out come `opened.OpenedModel` (found, downloaded if need be, checked, with
its tokenizer; no torch) and `loading.load.LoadedModel` (its weights). Begin with `opened.open_model`, which calls in this order
`find`, `checkpoint.inspect` and `tokenizer.open`; `generation.session` goes on from there with `loading.load`.

    spec, catalogue, find, opened    from a name to a checked folder     hub/          its download and the cache
    checkpoint/, tokenizer/          the folder's files                  quantize/     int8 and int4 weights
    adapters/                        LoRA adapters, merged into them
    loading/                         the weights in memory               listing       what `olc models` shows
    model_files, stand_ins          reading its files, and the boundary around their parsers; what lies in a file's place
"""
