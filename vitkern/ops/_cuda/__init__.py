"""What the ``cuda`` backends of all ops share.

``library``: the shared library of csrc/cuda, loaded without torch, and launches of its entry
points. ``device``: the library for GPUs, and refusals that hold for every op. ``shapes``: how
tensors become the rows that kernels take.
"""
