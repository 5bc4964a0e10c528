"""The machine as plain data: `probe.MachineProbe` fills in `facts.Facts` and measures devices; the rest only reads them.

`cpu` and `accelerators` read the hardware, `measure` checks and times matmuls, `probe` adds the installation and the Hub's
cache. Begin with `facts`.
"""
