"""Training of vision transformers on patched models, with Accelerate underneath.

Needs the packages of the extra ``train``: ``pip install "vitkern[train]"``.
"""

from vitkern.training.checkpoint import CheckpointError, CorruptCheckpoint
from vitkern.training.classification import Classification
from vitkern.training.config import TrainConfig
from vitkern.training.detection import Detection
from vitkern.training.evaluation import evaluate
from vitkern.training.losses import CrossEntropy, balanced_weights
from vitkern.training.metrics import classification_metrics
from vitkern.training.parameters import parameter_groups
from vitkern.training.result import TrainResult
from vitkern.training.step import NonFiniteLoss
from vitkern.training.task import Task
from vitkern.training.trainer import Trainer

__all__ = [
    "CheckpointError",
    "Classification",
    "CorruptCheckpoint",
    "CrossEntropy",
    "Detection",
    "NonFiniteLoss",
    "Task",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "balanced_weights",
    "classification_metrics",
    "evaluate",
    "parameter_groups",
]
