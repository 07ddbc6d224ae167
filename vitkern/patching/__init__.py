"""WHERE ops meet models: adapters by library, swap, undo and report.

``patch(model)`` gives each instance that an adapter knows a ``forward`` that runs on vitkern's ops.

How it is done
    ``module.__dict__["forward"]`` holds a :class:`~vitkern.patching.swap.Swap`, which
    ``nn.Module.__call__`` finds before the class's ``forward``. Nothing else changes: not the
    class, not ``type(module)``, not other instances, not parameters, buffers or the state dict.
    Hooks on the module fire as ever, and ``unpatch`` deletes that one key. The swap knows its
    module by a weak reference, so that a deleted model is freed at once; ``copy.deepcopy`` and
    pickling bind the copy's swap to the copy. (A bound method would be a reference cycle, and is
    unpickled as the class's forward.)

What keeps working
    * Hooks on children that a fused parent bypasses, ``register_forward_hook`` on ``block.mlp``
      for one: while there are any, the parent runs its own class's forward, which calls its
      children, and each of these is still patched by itself. Hooks may come and go after ``patch``.
      So it is with a child whose ``forward`` was replaced, and with hooks on all modules.
    * Weights: parameters are read in every call. Optimizer steps, ``load_state_dict`` (also with
      ``assign``), ``.to()``, ``.data = ...`` and in-place edits take effect at once.
    * Replaced children, parametrizations (weight norm, LoRA) and quantized weights: noticed in the
      next call. Where the adapter cannot honour them the module runs its own class's forward, and
      one warning says so.
    * ``train()``/``eval()``, dropout and drop path: those that are active run as the modules that
      they are, and draw the random numbers of the original forward. Attention dropout draws others.
    * Autocast, gradient checkpointing, DDP, FSDP2 (``fully_shard`` after ``patch``),
      ``torch.func.functional_call``, ``torch.compile(fullgraph=True)`` and ``torch.export``.
      Compiled code is compiled anew where the model is patched, unpatched or gets other forms. But
      as ever with torch.compile, hooks added later are not seen. ``torch.fx`` tracing sees the
      original forward.

Forms
    ``patch(model, dtype=torch.bfloat16)`` and ``vitkern.quantize`` give each Linear below a patched
    module a swap, too, which holds the form that products take its weight in: a
    :class:`~vitkern.ops.weights.ConvertedWeight` of whatever parameter the Linear has. So all of
    the above holds for forms: they are undone, copied and pickled with the swap, and follow their
    parameter (int8 forms all changes but writes through ``.data[...]``). They are for inference:
    where a gradient is wanted, products that would be in bfloat16 are computed in float32, and
    those in int8 raise.

What does not
    * ``copy.copy(module)`` and ``nn.DataParallel`` share the instance's ``__dict__``, so the copy's
      forward computes with the original: patch the copy again, or use ``deepcopy`` or DDP.
    * A whole pickled model needs vitkern where it is loaded, and its state dict does not.
    * Second derivatives on compiled backends. Under ``torch.func`` transforms (``vmap``, ``grad``,
      ``jvp``) and forward-mode gradients modules run their own forward, and one warning says so.
    * ``torch.jit.script`` and ``torch.jit.trace``: unpatch first.

Three kinds of adapters
    * Fused: blocks, MLPs, Swin's windows and others compute their module themselves, in as few ops
      as they can (``transformer.py``, ``windows.py``, ``mlps.py``). They have to know what the
      module computes, and notice whatever changes it.
    * Products: attention and other modules of most libraries run their own code, of which only the
      products are computed by ops, also where attention is written out (``products.py``,
      ``scores.py``), or a function of the library's own computes what an op does
      (``rebound.py``). Children, hooks on them and parametrizations are the module's own matter.
      What gains nothing is left to PyTorch: small products, and linear layers in training; the
      report's notes say so. Their linear layers have no forms.
    * Single layers (``layers.py``): patch embeddings, 1x1 convolutions of images with channels
      last, and LayerNorm and Linear where a backend is asked for by name.

Calls that a patched module cannot compute run its original forward, and warn once: ``is_causal`` in
timm's attention, Swin training with attention dropout, maps smaller than their window.

To add a library, add a module that defines ``ADAPTERS`` here: see ``huggingface.py`` for one that
is a table, ``timm_vit.py`` for fused blocks, and :class:`~vitkern.patching.adapter.Adapter` for
what an adapter answers.
"""

from vitkern.patching.api import CannotPatch, patch, patched, unpatch
from vitkern.patching.graph import GraphReport, graph_backend
from vitkern.patching.report import PatchedModule, PatchReport, SkippedModule

__all__ = [
    "CannotPatch",
    "GraphReport",
    "PatchReport",
    "PatchedModule",
    "SkippedModule",
    "graph_backend",
    "patch",
    "patched",
    "unpatch",
]
