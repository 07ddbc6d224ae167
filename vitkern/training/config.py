"""How a model is trained: every setting, its default and its limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from vitkern.training import _check

__all__ = ["METRICS", "TrainConfig"]

METRICS = ("accuracy", "f1", "auc", "map", "map_50", "map_75", "loss")
"""What the best checkpoint, the plateau schedule and early stopping can go by: the first three of
classifiers, the next three of detectors."""

_FREE = ("workers", "keep", "checkpoint_every", "distributed")
"""Settings that change no weight, but for the order of sums: a run may be resumed with others."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of :class:`~vitkern.training.Trainer`; defaults are those of DeiT-like training.

    Attributes:
        epochs: passes over the training data.
        batch_size: images of one forward pass, over all processes together.
        accumulate: such batches per optimizer step; the last step of an epoch may have fewer, and
            weighs its images as if they had been one batch.
        lr: of AdamW (arXiv 1711.05101), at its highest.
        weight_decay: of matrices; biases, norms and other vectors, and what the model's
            ``no_weight_decay()`` lists, have none.
        betas: of AdamW.
        schedule: "cosine" (arXiv 1608.03983; each optimizer step), "plateau" (``lr`` times
            ``plateau_factor`` where ``monitor`` did not get better for ``plateau_patience``
            epochs) or "constant"; all after the warm-up.
        warmup: share of all optimizer steps in which ``lr`` rises linearly.
        min_lr: where "cosine" ends, and the least of "plateau".
        plateau_factor: see ``schedule``.
        plateau_patience: see ``schedule``.
        layer_decay: each layer below the head learns at this times the rate of the one above it;
            1 for all alike (as in BEiT, arXiv 2106.08254).
        lr_groups: highest rates of the embeddings and the lower half of the blocks, of the upper
            half, and of the head, in place of ``lr`` and ``layer_decay``; None for these.
        label_smoothing: of classifiers, arXiv 1512.00567.
        clip: the largest norm of all gradients together; 0 for no limit.
        ema: decay of the moving average of the weights, which is then what is validated and kept
            as the best; 0 for none. It starts lower: (1 + step) / (10 + step).
        precision: "fp32", or "bf16": autocast of the forward pass; weights stay float32.
        gradient_checkpointing: recompute blocks in the backward pass, where the model has it.
        patch: run the model on vitkern's kernels.
        monitor: what is best, of the validation: one of :data:`METRICS`.
        patience: stop after so many epochs in which ``monitor`` did not get better; 0 for never.
        seed: of the order of the images, of augmentation and of dropout.
        distributed: under ``torchrun``: "ddp", or "fsdp" for parameters, gradients and the
            optimizer's state split over the processes (FSDP2). One process has all either way.
        workers: processes that load data; the result does not depend on them.
        checkpoint_every: optimizer steps between checkpoints; 0 for one an epoch.
        keep: how many checkpoints are kept.

    Raises:
        TypeError: a setting of another type.
        ValueError: a setting out of range.
    """

    epochs: int = 10
    batch_size: int = 64
    accumulate: int = 4
    lr: float = 1e-4
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: str = "cosine"
    warmup: float = 0.1
    min_lr: float = 1e-6
    plateau_factor: float = 0.5
    plateau_patience: int = 3
    layer_decay: float = 1.0
    lr_groups: tuple[float, float, float] | None = None
    label_smoothing: float = 0.1
    clip: float = 1.0
    ema: float = 0.0
    precision: str = "fp32"
    gradient_checkpointing: bool = False
    patch: bool = True
    monitor: str = "accuracy"
    patience: int = 0
    seed: int = 0
    distributed: str = "ddp"
    workers: int = 0
    checkpoint_every: int = 0
    keep: int = 2

    def __post_init__(self) -> None:
        for name, least in (
            ("epochs", 1),
            ("batch_size", 1),
            ("accumulate", 1),
            ("plateau_patience", 0),
            ("patience", 0),
            ("seed", 0),
            ("workers", 0),
            ("checkpoint_every", 0),
            ("keep", 2),  # one good one beside one that is damaged
        ):
            _check.integer(name, getattr(self, name), least)
        _check.number("lr", self.lr, 0, above=True)
        _check.number("weight_decay", self.weight_decay, 0)
        _check.number("warmup", self.warmup, 0, 1)
        _check.number("min_lr", self.min_lr, 0)
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr must be at most lr ({self.lr}), got {self.min_lr}")
        _check.number("plateau_factor", self.plateau_factor, 0, 1, above=True)
        _check.number("layer_decay", self.layer_decay, 0, 1, above=True)
        _check.number("label_smoothing", self.label_smoothing, 0, 1)
        _check.number("clip", self.clip, 0)
        _check.number("ema", self.ema, 0, 0.999999)
        _check.choice("schedule", self.schedule, ("cosine", "plateau", "constant"))
        _check.choice("precision", self.precision, ("fp32", "bf16"))
        _check.choice("distributed", self.distributed, ("ddp", "fsdp"))
        _check.choice("monitor", self.monitor, METRICS)
        _check.flag("gradient_checkpointing", self.gradient_checkpointing)
        _check.flag("patch", self.patch)
        if not isinstance(self.betas, (tuple, list)) or len(self.betas) != 2:
            raise TypeError(f"betas must be two numbers, got {self.betas!r}")
        for beta in self.betas:
            _check.number("betas", beta, 0, 0.9999999)
        object.__setattr__(self, "betas", tuple(self.betas))
        self._check_groups()

    def _check_groups(self) -> None:
        if self.lr_groups is None:
            return
        if not isinstance(self.lr_groups, (tuple, list)) or len(self.lr_groups) != 3:
            raise TypeError(f"lr_groups must be three numbers, got {self.lr_groups!r}")
        for rate in self.lr_groups:
            _check.number("lr_groups", rate, 0, above=True)
        object.__setattr__(self, "lr_groups", tuple(self.lr_groups))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Settings by name.

        Raises:
            TypeError: as the class.
            ValueError: as the class, or an unknown name, with near matches.
        """
        _check.known("train", values, (field.name for field in fields(cls)))
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        values = asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    def binding(self) -> dict[str, Any]:
        """The settings that a resumed run must share with the one that it goes on with."""
        return {name: value for name, value in self.to_dict().items() if name not in _FREE}
