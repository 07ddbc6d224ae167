"""The trainer: epochs, validation, checkpoints, exact resuming."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from timm.utils import ModelEmaV3
from torch import nn

from vitkern.patching import PatchReport, patch
from vitkern.training import files, sampling, sharding
from vitkern.training.checkpoint import (
    CheckpointError,
    CheckpointStore,
    check_fits,
    check_settings,
    write_state,
)
from vitkern.training.classification import Classification, Mix
from vitkern.training.config import TrainConfig
from vitkern.training.fitness import check_fitness, check_types, checkpoint_blocks
from vitkern.training.history import History
from vitkern.training.losses import CrossEntropy
from vitkern.training.parameters import parameter_groups
from vitkern.training.plots import plot_history
from vitkern.training.progress import Progress, show_epoch
from vitkern.training.result import Standing, TrainResult
from vitkern.training.schedule import Schedule
from vitkern.training.step import Stepper
from vitkern.training.task import Task

__all__ = ["Trainer"]


class Trainer:
    """Trains a model, in place.

    A run is a function of the model's weights, the data and the configuration. Killed at any moment
    and resumed, it gives the weights, bit for bit on a CPU, that it would have given undisturbed.
    Started under ``torchrun``, processes share each batch, and losses are those of one process;
    where ``config.distributed`` is "fsdp", ``model`` is left with this process's parts (DTensors).
    Global random generators of Python, NumPy and PyTorch are seeded at every step.

    Args:
        model: what the task trains; a classifier is (B, C, H, W) -> (B, classes).
        train: a data set of (image, target) pairs. Its random transforms may use Python's, NumPy's
            or PyTorch's global generator. Targets in an attribute ``targets`` are checked before
            the training.
        valid: the same, to validate on after each epoch; None for no validation, and then no best
            checkpoint.
        config: the settings.
        folder: of the run; made where it is missing.
        num_classes: a classifier's logits; None with a ``task``.
        classes: their names, for pictures.
        loss: of a classifier, a module (outputs, targets, images) -> (B,); cross entropy if None.
        mix: of a classifier, MixUp and its like: (images, labels) -> (images, targets), or None.
            Within a process's part of a batch.
        task: what else than classes the model is trained for, such as :class:`Detection`.
        extra: plain data that is kept with the checkpoints, such as how to build the model.
        progress: draw a bar, or where the error stream is no terminal write a line an epoch.
        report: is told of damaged checkpoints, full disks and the like; a log if None.

    Raises:
        TypeError: an argument of a wrong type, or not one of ``num_classes`` and ``task``.
        ValueError: ``valid`` is ``train``, an empty split, wrong targets, or settings that are not
            for the task.
    """

    def __init__(
        self,
        model: nn.Module,
        train: Any,
        valid: Any = None,
        *,
        config: TrainConfig,
        folder: str | Path,
        num_classes: int | None = None,
        classes: Sequence[str] | None = None,
        loss: nn.Module | None = None,
        mix: Mix | None = None,
        task: Task | None = None,
        extra: Mapping[str, Any] | None = None,
        progress: bool = True,
        report: Callable[[str], None] | None = None,
    ) -> None:
        check_types(model, config)
        if (task is None) == (num_classes is None):
            raise TypeError("Trainer needs either num_classes or a task")
        if task is None:
            names = classes or [str(label) for label in range(num_classes or 0)]
            task = Classification(names, loss or CrossEntropy(config.label_smoothing), mix)
        check_fitness(train, valid, config, task)
        self.config = config
        self.folder = Path(folder)
        self.model = model
        self._train, self._valid = train, valid
        self._task = task
        self._extra = dict(extra or {})
        self._tell = report or logging.getLogger("vitkern.training").warning
        self._draw = progress
        # Autocast is done around the forward pass: Accelerate keeps one precision for a process.
        self.accelerator = Accelerator(mixed_precision="no")
        model.to(self.accelerator.device)
        checkpoint_blocks(model, config.gradient_checkpointing)
        self.patch_report: PatchReport | None = patch(model) if config.patch else None
        self._sharded = config.distributed == "fsdp" and self.accelerator.num_processes > 1
        self._ema: ModelEmaV3 | None = None
        if config.ema:  # lists of tensors may not have parts beside whole ones, such as buffers
            self._ema = ModelEmaV3(
                model, decay=config.ema, use_warmup=True, foreach=not self._sharded
            )
        self._per_epoch = sampling.steps_per_epoch(len(train), config.batch_size, config.accumulate)
        if self._sharded:
            for one in (model, self._ema.module) if self._ema is not None else (model,):
                sharding.shard(one, self.accelerator)
        optimizer = torch.optim.AdamW(
            parameter_groups(model, config), lr=config.lr, betas=config.betas, fused=_fused(model)
        )
        self._schedule = Schedule(optimizer, config, self._per_epoch * config.epochs)
        self._optimizer = self.accelerator.prepare(optimizer)
        self._prepared = model if self._sharded else self.accelerator.prepare(model)
        task.loss.to(self.accelerator.device)
        self._stepper = Stepper(
            self.accelerator, self._prepared, self._optimizer, task, config, self.folder
        )
        self._store = CheckpointStore(self.folder, config.keep)
        self._at = Standing()
        self._unsaved_best: dict[str, Any] | None = None
        self._drawn = time.monotonic()

    @property
    def validated(self) -> nn.Module:
        """What is validated and kept as the best: the average of the weights if there is one."""
        return self.model if self._ema is None else self._ema.module

    def fit(self, *, resume: bool = False) -> TrainResult:
        """Trains, or goes on.

        Args:
            resume: go on from the newest undamaged checkpoint in the folder; from the start where
                there is none.

        Raises:
            CheckpointError: not resuming, and the folder has checkpoints; or resuming, and they
                are of another model or other settings, or all damaged.
            NonFiniteLoss: a loss or gradient is not finite; the step's batches are saved.
            OSError: the folder cannot be written; or the last checkpoint could not be. In between
                a checkpoint that cannot be written is reported, and training goes on.
        """
        self._begin(resume)
        first = self._at.step // self._per_epoch
        epochs = first
        for epoch in range(first, self.config.epochs):
            if self._at.stopped:
                break
            self._epoch(epoch)
            epochs = epoch + 1
        if not self._save():  # e.g. there is room again
            self._save(last=True)
        self._plot()
        return TrainResult(
            self.folder,
            self._at.step,
            epochs,
            self._at.best,
            self._at.best_epoch,
            self._history.entries,
        )

    def _begin(self, resume: bool) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        main = self.accelerator.is_main_process
        self._history = History(self.folder / "history.jsonl", self._tell, main)
        if main:
            files.remove_temporaries(self.folder)
        self.accelerator.wait_for_everyone()
        if not resume and self._store.paths():
            raise CheckpointError(
                f"{self.folder} has checkpoints of an earlier run: resume it, or use another folder"
            )
        state = self._read() if resume else None
        if state is not None:
            self._load(state)
        self._saved = self._at.step if state is not None else -1
        self._history.begin(None if state is None else self._at.step)
        self.accelerator.wait_for_everyone()

    def _read(self) -> dict[str, Any] | None:
        """The main process looks for the newest undamaged one first: it may rename others."""
        state = None
        if self.accelerator.is_main_process:
            state = self._store.newest(self._tell)
        self.accelerator.wait_for_everyone()
        return state if self.accelerator.is_main_process else self._store.newest(self._tell)

    def _epoch(self, epoch: int) -> None:
        config, started = self.config, time.monotonic()
        done = self._at.step - epoch * self._per_epoch
        whole = sampling.batches(len(self._train), config.batch_size, config.seed, epoch)
        steps = sampling.windows(whole, config.accumulate)
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        parts = [
            [sampling.share(batch, rank, processes) for batch in step] for step in steps[done:]
        ]
        loaded = sampling.loader(
            self._train,
            config.seed,
            epoch,
            [p for step in parts for p in step],
            config.workers,
            self._task.collate,
        )
        with self._bar(epoch, done) as bar:
            for step, mine in zip(steps[done:], parts, strict=True):
                window = [
                    (next(loaded), part, len(batch)) for batch, part in zip(step, mine, strict=True)
                ]
                loss = self._step(epoch, window)
                if bar is not None:
                    bar.advance(loss)
                if self._due(epoch):
                    self._save()
        self._end_epoch(epoch, time.monotonic() - started)

    def _bar(self, epoch: int, done: int) -> AbstractContextManager[Progress | None]:
        if not self._draw or not self.accelerator.is_main_process:
            return nullcontext()
        return Progress(f"epoch {epoch + 1} of {self.config.epochs}", self._per_epoch, done)

    def _step(self, epoch: int, window: list[Any]) -> float:
        lr = self._schedule.set(self._at.step)
        loss, norm, parts = self._stepper(self._at.step, window)
        self._at.step += 1
        self._at.loss_sum += loss
        self._at.loss_steps += 1
        if self._ema is not None:
            self._ema.update(self.model, step=self._at.step)
        self._history.add(
            {
                "kind": "step",
                "step": self._at.step,
                "epoch": epoch,
                "loss": loss,
                "lr": lr,
                "gradient_norm": norm,
                **parts,
            }
        )
        return loss

    def _due(self, epoch: int) -> bool:
        """Within an epoch; at its end there is a checkpoint after the validation."""
        every = self.config.checkpoint_every
        inside = self._at.step < (epoch + 1) * self._per_epoch
        return every > 0 and inside and self._at.step % every == 0

    def _end_epoch(self, epoch: int, seconds: float) -> None:
        at, valid = self._at, None
        if self._valid is not None:
            valid = self._task.evaluate(
                self.validated,
                self._valid,
                batch_size=max(self.config.batch_size // self.accelerator.num_processes, 1),
                device=self.accelerator.device,
                precision=self.config.precision,
                workers=self.config.workers,
                rank=self.accelerator.process_index,
                processes=self.accelerator.num_processes,
            )
            self._compare(epoch, valid)
            self._schedule.epoch(valid[self.config.monitor])
        entry = {
            "kind": "epoch",
            "step": at.step,
            "epoch": epoch,
            "loss": at.loss_sum / at.loss_steps,
            "valid": valid,
            "best": at.best_epoch == epoch,
            "seconds": round(seconds, 3),
        }
        self._history.add(entry)
        if self._draw and self.accelerator.is_main_process:
            show_epoch(entry, self.config.epochs, self.config.monitor)
        at.loss_sum, at.loss_steps = 0.0, 0
        self._save()
        if time.monotonic() - self._drawn > 30:
            self._plot()

    def _compare(self, epoch: int, valid: dict[str, Any]) -> None:
        at, monitor = self._at, self.config.monitor
        value, before = valid[monitor], at.best.get(monitor)
        if value is None:
            raise ValueError(
                f"monitor={monitor!r} is undefined on the validation split: it has one class only,"
                " or nothing of any"
            )
        sign = -1 if monitor == "loss" else 1
        if before is None or sign * value > sign * before:
            at.best, at.best_epoch, at.since_best = valid, epoch, 0
            weights = sharding.whole(self.validated.state_dict())
            self._unsaved_best = {  # only the main process writes it
                "model": {name: value.clone() for name, value in weights.items()},
                "epoch": epoch,
                "valid": valid,
                "extra": self._extra,
            }
        else:
            at.since_best += 1
            at.stopped = 0 < self.config.patience <= at.since_best

    def _save(self, last: bool = False) -> bool:
        """Writes the best weights if they are new, then a checkpoint.

        A checkpoint knows which epoch was best, so there is none before the best is on the disk.
        """
        main = self.accelerator.is_main_process
        if self._saved == self._at.step or not (main or self._sharded):
            return True
        state = self._state()
        error = self._write(state) if main else None
        failed = [error is not None]
        if self._sharded:  # all have given their parts, and all try again or go on
            broadcast_object_list(failed)
        if not failed[0]:
            self._saved = self._at.step
            return True
        why = f"checkpoint of step {self._at.step} cannot be written: {error or 'see process 0'}"
        if last:
            raise OSError(f"{why}; the trained weights are in memory only") from error
        if main:
            self._tell(f"{why}; earlier ones are kept, and training goes on")
            self._history.add({"kind": "warning", "step": self._at.step, "text": why})
        return False

    def _write(self, state: dict[str, Any]) -> OSError | None:
        try:
            if self._unsaved_best is not None:
                write_state(self.folder / "best.safetensors", self._unsaved_best)
                self._unsaved_best = None
            self._store.save(self._at.step, state)
        except OSError as error:
            return error
        return None

    def _state(self) -> dict[str, Any]:
        return {
            "model": sharding.whole(self.model.state_dict()),
            "ema": None if self._ema is None else sharding.whole(self._ema.module.state_dict()),
            "optimizer": sharding.whole(self._optimizer.state_dict()),
            "schedule": self._schedule.state_dict(),
            "progress": vars(self._at),
            "run": self._run(),
            "extra": self._extra,
        }

    def _run(self) -> dict[str, Any]:
        """What a checkpoint must share with the run that goes on from it."""
        return {
            **self.config.binding(),
            "images": len(self._train),
            "num_classes": len(self._task.classes),
        }

    def _load(self, state: dict[str, Any]) -> None:
        source = f"the checkpoint in {self.folder}"
        check_fits(state["model"], self.model.state_dict(), source)
        check_settings(state["run"], self._run(), source)
        sharding.load_model(self.model, state["model"])
        if self._ema is not None:
            sharding.load_model(self._ema.module, state["ema"])
        sharding.load_optimizer(self._optimizer, state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._at = Standing(**state["progress"])

    def _plot(self) -> None:
        """Pictures are no reason to stop."""
        if not self.accelerator.is_main_process:
            return
        self._drawn = time.monotonic()
        try:
            metrics = self._task.metrics
            plot_history(self._history.entries, self.folder / "curves.png", metrics)
            if self._at.best:
                self._task.draw(self._at.best, self.folder)
        except OSError as error:
            self._tell(f"pictures cannot be written: {error}")


def _fused(model: nn.Module) -> bool:
    """AdamW's one-pass update, where the dtype and the device have it."""
    return all(
        p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in model.parameters()
    )
