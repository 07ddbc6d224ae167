"""vitkern beside other ways to run the same model on the CPU.

:mod:`~vitkern.bench.peers.systems`
    the table of systems: eager PyTorch, the peers, ours. One more is one more entry.
:mod:`~vitkern.bench.peers.system`
    what an entry is.
:mod:`~vitkern.bench.peers.torch_compile`, ``onnx_runtime``, ``openvino``
    how the peers convert and run a model, each in its own best setting.
:mod:`~vitkern.bench.peers.run`
    all of them on one row, in turns, in a process of their own.
:mod:`~vitkern.bench.peers.result`, :mod:`~vitkern.bench.peers.report`
    what was found, as JSON, tables and a picture.
"""

from vitkern.bench.models import TARGETS, Row

ROWS: tuple[Row, ...] = tuple(row for row in TARGETS if row.mode == "eval")
"""What is measured by default."""
