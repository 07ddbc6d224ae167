"""Data sets and transforms for training and evaluation.

Needs the packages of the extra ``train``: ``pip install "vitkern[train]"``.
"""

from vitkern.data.arrays import ArrayImages, Splits, split_indices
from vitkern.data.builtin import digits, photographs
from vitkern.data.checks import check_labels
from vitkern.data.folder import FileImages, image_folder
from vitkern.data.images import UnreadableImage, read_image
from vitkern.data.medical import MedicalImageDataset, read_medical
from vitkern.data.transforms import batch_mix, imagenet_train, imagenet_valid
from vitkern.data.windows import WINDOWS, Window

__all__ = [
    "WINDOWS",
    "ArrayImages",
    "FileImages",
    "MedicalImageDataset",
    "Splits",
    "UnreadableImage",
    "Window",
    "batch_mix",
    "check_labels",
    "digits",
    "image_folder",
    "imagenet_train",
    "imagenet_valid",
    "photographs",
    "read_image",
    "read_medical",
    "split_indices",
]
