"""How fast, against what, and is it right: the measuring that benchmarks, CLI and demo share.

:mod:`~vitkern.bench.timing`
    several callables in turns, so that a busy machine slows all of them alike.
:mod:`~vitkern.bench.peak`
    the machine's own rate of fused multiply-adds at the moment of a run.
:mod:`~vitkern.bench.flops`
    what a model has to compute, counted on the eager model without computing it.
:mod:`~vitkern.bench.parity`
    errors against float64; nothing that fails is timed.
:mod:`~vitkern.bench.memory`
    the peak of a pass above rest.
:mod:`~vitkern.bench.models`
    the rows: model, batch, mode, dtype.
:mod:`~vitkern.bench.forms`, :mod:`~vitkern.bench.calibration`
    the patched model, with products in float32, bfloat16 or int8.
:mod:`~vitkern.bench.ops`
    single ops, on the shapes of real models.
:mod:`~vitkern.bench.measure`
    all of these for one row.
:mod:`~vitkern.bench.peers`
    torch.compile, ONNX Runtime and OpenVINO beside ours.
:mod:`~vitkern.bench.page`
    all results as one page of HTML, beside earlier ones.
:mod:`~vitkern.bench.machine`, :mod:`~vitkern.bench.report`
    what was measured on, tables and JSON files.
"""
