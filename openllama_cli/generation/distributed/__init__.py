"""One model over the ranks (processes) that torchrun started: rank 0 leads, the others follow.

In: an opened model and a device. Out: on the leader a `ShardedModel`, on which `LeaderForward` runs every forward pass together
with the followers. Begin reading with `load.py`; `group.py` is how ranks talk and how they notice that one of them is gone.
"""
