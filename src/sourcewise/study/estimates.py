"""Estimates of other studies, from the files that they left."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from sourcewise.core.errors import SourcewiseError

_ATTRIBUTES = ("study", "target", "models")


def estimate_files(place: str) -> list[Path]:
    """Return the influences.nc in a place: the file itself, or those of an estimate's folder; none if it is another."""
    path = Path(place)
    return [path] if path.suffix == ".nc" else sorted([*path.glob("influences.nc"), *path.glob("*/influences.nc")])


def read_estimate(path: Path) -> xr.Dataset:
    """Return an influences.nc at class and overall level, in memory: classes x groups, names as texts.

    Raises SourcewiseError when it is none.
    """
    try:
        with xr.open_dataset(path, engine="h5netcdf") as dataset:
            names = [name for name in dataset.data_vars if str(name).endswith(("_class", "_overall"))]
            loaded = dataset[names].transpose("class", "group").load()
            dataset["influence_class"].dims.index("class")
            loaded.attrs |= {key: dataset.attrs[key] for key in _ATTRIBUTES}
            loaded.attrs["models"] = int(loaded.attrs["models"])
            return loaded.assign_coords({key: loaded[key].values.astype(str) for key in ("class", "group")})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourcewiseError(f"{path} is not an influences.nc of an estimate ({error})") from error


def check_other(study: str, taker: str) -> None:
    """Raise SourcewiseError when another study is the one that takes what it says."""
    if study == taker:
        raise SourcewiseError("this is the study itself, whose records would count twice; leave it out")
