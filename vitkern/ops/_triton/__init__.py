"""What the ``triton`` backends of all ops share.

``availability``: whether Triton can run here, and refusals that hold for every op. ``operator``:
registered operators from what they return and how they launch. ``kernel``: a kernel, its
configurations, the choice among them, and its launch, which can be recorded instead: compile gates
and predictions read launches, and have no table of their own. ``*_kernels``: ``@triton.jit``
functions that several ops use. ``interpreter``: mends of Triton's interpreter.

Importing anything but ``*_kernels`` imports no Triton.
"""
