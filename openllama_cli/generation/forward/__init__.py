"""Forward passes: tokens and KV caches in, float32 logits out, behind the interface `transformers_forward.Forward`.

`lean.LeanForward` runs most models, `cuda.graphs.GraphForward` those on NVIDIA GPUs, `TransformersForward` the rest (several
devices, offloaded or sharded weights); `session.choose_forward` chooses. Begin reading with `lean.py` and `cache.py`.
"""
