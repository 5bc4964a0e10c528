"""What olc asks of the machine and the operating system, without knowing models: folders (`paths`), writing files (`files`),
memory and what a container grants (`memory`, `cgroup`), `--device` and `--dtype` (`device`), progress, and keeping
transformers quiet (`quiet`). Nothing here imports torch before a function needs it. Begin with `device`.
"""
