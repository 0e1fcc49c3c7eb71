"""Datasets: images with labels, groups and a fingerprint."""

from sourcewise.data.dataset import ImageDataset
from sourcewise.data.groups import Numbers, regroup

__all__ = ["ImageDataset", "Numbers", "regroup"]
