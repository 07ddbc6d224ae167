"""DETR: the model, its loss, and what stands around them."""

from vitkern.models.detr.attention import CrossAttention
from vitkern.models.detr.backbone import TimmBackbone
from vitkern.models.detr.criterion import SetCriterion
from vitkern.models.detr.images import Objects, pad_images, post_process
from vitkern.models.detr.matcher import HungarianMatcher, Target
from vitkern.models.detr.model import DETR, Detections
from vitkern.models.detr.transformer import DecoderLayer, EncoderLayer

__all__ = [
    "DETR",
    "CrossAttention",
    "DecoderLayer",
    "Detections",
    "EncoderLayer",
    "HungarianMatcher",
    "Objects",
    "SetCriterion",
    "Target",
    "TimmBackbone",
    "pad_images",
    "post_process",
]
