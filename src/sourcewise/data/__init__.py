"""Datasets: images with labels, groups and a fingerprint."""

from sourcewise.data.dataset import ImageDataset

__all__ = ["ImageDataset"]
