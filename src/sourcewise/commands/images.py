"""Images at hand for an estimate: the examples that the report shows, and the source where its examples are groups."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf.errors import OmegaConfBaseException

from sourcewise.commands.datasets import LOAD
from sourcewise.core.errors import SourcewiseError
from sourcewise.core.identity import dataset_names
from sourcewise.core.overrides import quote

if TYPE_CHECKING:
    from sourcewise.data import ImageDataset
    from sourcewise.records.record import Header
    from sourcewise.study.collect import Study

_ERRORS = (SourcewiseError, HydraException, OmegaConfBaseException)
"""Errors that are raised when a dataset is not at hand."""


def find_images(setting: Mapping[str, Any] | str | None, header: Header) -> dict[str, ImageDataset]:
    """Return the targets' test examples and, under "", the source if its examples are groups; within a Hydra main.

    Args:
        setting: settings of train.py that choose them, `auto` for those that are at hand, or None for none.
        header: that of the records, whose fingerprints the images must have.

    Raises SourcewiseError when settings choose other images than those of the records.
    """
    from sourcewise.data import regroup  # torch is slow to import, and only images need it

    if setting is None or isinstance(setting, str):
        return _at_hand(header) if setting else {}
    overrides = [f"{key}={value if isinstance(value, str) else quote(value)}" for key, value in setting.items()]
    try:
        config = compose("train", overrides)
    except ValueError as error:  # such as a config group that is a number
        raise SourcewiseError(f"images={dict(setting)}: {error}") from error
    images = {name: instantiate(target.test) for name, target in config.target.items()}
    if header.group_names is None:
        images = {"": regroup(instantiate(config.source.train), "example"), **images}
    for name, dataset in images.items():
        if dataset.fingerprint not in header.fingerprints.values():
            raise SourcewiseError(f"images: {name or config.source.name} has other images or groups than the records")
    return images


def with_paths(study: Study, images: Mapping[str, ImageDataset]) -> Study:
    """Return the study with the paths of examples that its records do not hold, as older ones, from images at hand."""
    paths = dict(study.paths)
    for name, dataset in images.items():
        if name in paths or dataset.paths is None:
            continue
        if not name:
            paths[name] = dataset.paths
        elif name in study.targets:
            file = dict(zip(dataset.ids.tolist(), dataset.paths, strict=True))
            paths[name] = np.array([file.get(example) for example in study.targets[name].ids.tolist()], object)
    return replace(study, paths=paths)


def _at_hand(header: Header) -> dict[str, ImageDataset]:
    """Return the images that need no files to be made: existing stores of targets, and datasets in memory.

    A store is known by its fingerprint. A dataset in memory is composed from conf/, by the names that the records have
    for source and targets; nothing else of the records is used, since they may come from elsewhere.
    """
    from sourcewise.data import ImageDataset, regroup
    from sourcewise.data.load import stored

    source, nodes, images = header.config["source"]["name"], dict[str, Any](), dict[str, ImageDataset]()
    plain = all(re.fullmatch(r"[\w-]+", str(name)) for name in (source, *header.class_names))
    with suppress(*_ERRORS):
        if plain and GlobalHydra.instance().is_initialized():
            config = compose("train", [f"source='{source}'", f"target={list(header.class_names)}"])
            nodes = {"": config.source.train, **{name: target.test for name, target in config.target.items()}}
    for name in (*header.class_names, *([] if header.group_names else [""])):
        fingerprint = header.fingerprints.get(dataset_names(name)["test"] if name else source)
        with suppress(*_ERRORS):
            dataset = stored(fingerprint, "class" if name else "example")
            if dataset is None and name in nodes and nodes[name]._target_ != LOAD:
                dataset = instantiate(nodes[name]) if name else regroup(instantiate(nodes[name]), "example")
            if dataset is not None and dataset.fingerprint == fingerprint:
                images[name] = dataset
    return images
