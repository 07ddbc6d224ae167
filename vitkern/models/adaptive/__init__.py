"""AdaptiveViT: the cost of an image follows what there is to see in it."""

from vitkern.models.adaptive.attention import GatedSparseAttention
from vitkern.models.adaptive.block import AdaptiveBlock, AdaptiveMlp
from vitkern.models.adaptive.complexity import ComplexityEstimator
from vitkern.models.adaptive.model import ROUTES, AdaptiveViT

__all__ = [
    "ROUTES",
    "AdaptiveBlock",
    "AdaptiveMlp",
    "AdaptiveViT",
    "ComplexityEstimator",
    "GatedSparseAttention",
]
