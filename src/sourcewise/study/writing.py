"""Influences as files: `influences.nc` and `top.parquet` of every target; and the part of them that a page lists."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import xarray as xr
from pyarrow import parquet

from sourcewise.core.errors import SourcewiseError
from sourcewise.estimation.arrays import row_blocks
from sourcewise.study.effects import ALL_KEYS

LISTED_GROUPS = 2000
"""Groups that a page lists at most."""


def listed_groups(dataset: xr.Dataset, names: Collection[str] = ()) -> xr.Dataset:
    """Return the influences of as many groups as a page can list.

    These are the groups that help and that hurt most overall, and those called `names`.
    """
    if dataset.sizes["group"] <= LISTED_GROUPS:
        return dataset
    order, half = np.argsort(np.nan_to_num(dataset["posterior_overall"].values), kind="stable"), LISTED_GROUPS // 2
    named = np.flatnonzero(np.isin(dataset["group"].values, list(names)))
    return dataset.isel(group=np.unique(np.concatenate([order[:half], order[-half:], named])))


def write(influences: Mapping[str, xr.Dataset], out: Path, top: int = 10) -> None:
    """Write `<out>/<target>/influences.nc` and `top.parquet` for every target, each whole or not at all.

    top.parquet holds for every example the `top` most helpful and most harmful groups, with errors and q-values; and
    the paths of examples, and of groups that are examples, where these are known.

    Raises SourcewiseError when the disk has no room.
    """
    for name, dataset in influences.items():
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        size, free = 4 * sum(table.size for table in dataset.values()), shutil.disk_usage(folder).free
        if size > free:  # HDF5 does not survive a full disk
            raise SourcewiseError(f"{folder}: influences of up to {size:,} bytes, and the disk has {free:,} left")
        part = folder / ".influences.nc.tmp"
        how = {"zlib": True, "complevel": 1, "shuffle": True, "dtype": "float32"}  # shuffled bytes compress better
        compressed = dict.fromkeys(map(str, dataset.data_vars), how)
        dataset.to_netcdf(part, engine="h5netcdf", encoding=compressed)
        part.replace(folder / "influences.nc")
        part = folder / ".top.parquet.tmp"
        blocks = row_blocks(dataset["influence"].shape)
        parquet.write_table(pa.concat_tables(_top(dataset.isel(example=rows), top) for rows in blocks), part)
        part.replace(folder / "top.parquet")


def _top(dataset: xr.Dataset, top: int) -> pa.Table:
    """Return for every example the `top` groups of either sign that matter most."""
    posterior = dataset["posterior"].values
    order = np.argsort(np.where(np.isnan(posterior), 0, -posterior), axis=1, kind="stable")
    count = min(top, posterior.shape[1])
    columns = np.concatenate([order[:, :count], order[:, ::-1][:, :count]], axis=1)
    rows = np.repeat(np.arange(len(posterior)), columns.shape[1])
    rank = np.tile(np.concatenate([np.arange(1, count + 1), -np.arange(1, count + 1)]), len(posterior))
    cells = (rows, columns.ravel())
    keep = np.sign(posterior[cells]) == np.sign(rank)  # the most harmful groups are those that harm
    groups = dataset["group"].values.astype(str)
    paths = {
        key: dataset[key].values[cells[axis]][keep]
        for axis, key in enumerate(("path", "group_path"))
        if key in dataset.coords
    }
    return pa.table(
        {
            "example": dataset["example"].values[rows][keep],
            "label": dataset["label"].values[rows][keep],
            "rank": rank[keep],
            "group": groups[cells[1]][keep],
            **{name: dataset[name].values[cells][keep] for name in ALL_KEYS},
            **paths,
        }
    )
