"""Kept source models: what their files say of themselves, read without torch, and which one a run takes."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_type_hints

from sourcewise.core import names, settings
from sourcewise.core.errors import SourcewiseError
from sourcewise.core.files import open_regular
from sourcewise.core.hashing import fingerprint
from sourcewise.core.messages import first_names
from sourcewise.core.names import Config
from sourcewise.core.overrides import override_key, quote
from sourcewise.designs import DESIGNS

SCHEMA = 2

MAX_HEADER = 2**25
"""Bytes that the header of a file may have."""

Dtype = Literal["float32", "bfloat16"]


class ModelError(SourcewiseError):
    """A file that cannot be used as a kept source model; the message says which file and why."""


@dataclass(frozen=True)
class Header:
    """What the file of a kept source model says of it; all of it is JSON.

    recipe, settings: the hash and the settings of its source recipe (`names.source_recipe`). subset: the resolved
    settings of its subset. groups, group_names: how many groups the source has, and a hash of their names; null when
    they are examples. fingerprint: of the source's dataset. metrics: scalars of its pretraining. dtype: of its
    floating-point numbers; `bfloat16` means rounded. seconds: that its pretraining took.
    """

    recipe: str
    settings: Mapping[str, Any]
    subset: Mapping[str, Any]
    seed: int
    groups: int
    group_names: str | None
    fingerprint: str
    dtype: Dtype
    versions: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def as_text(self) -> str:
        """Return the header as its file holds it."""
        return json.dumps({"schema": SCHEMA, **asdict(self)})

    @classmethod
    def from_text(cls, text: str, path: Path) -> "Header":
        """Return the header in a file. Raises ModelError for another schema, and for missing or unknown parts."""
        try:
            fields = json.loads(text)
            if (schema := fields.pop("schema")) != SCHEMA:
                raise ModelError(f"{path}: a model of schema {schema}, and this sourcewise reads schema {SCHEMA}")
            header = cls(**fields)
            for name, hint in get_type_hints(cls).items():
                settings.check_value(getattr(header, name), hint, name)
            if fingerprint(header.settings) != header.recipe or "design" not in header.subset:
                raise ValueError("its recipe or subset is not what it says")
        except ModelError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError, SourcewiseError) as error:
            raise ModelError(f"{path}: a model with missing or unknown parts ({str(error)[:200]})") from error
        return header


def damaged(path: Path, reason: str) -> ModelError:
    """Return the error for a file that is not what was written."""
    return ModelError(f"{path}: not a whole source model of sourcewise ({reason}); delete it, or take another")


def read_header(path: Path) -> Header:
    """Return the header of a kept model, whose other bytes are not read. Raises ModelError when it cannot be used."""
    try:
        with open_regular(path) as (file, size):
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= min(MAX_HEADER, size - 8):
                raise damaged(path, "truncated, or another kind of file")
            content = json.loads(file.read(length))
        text = content["__metadata__"]["sourcewise"]
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(path, "its header is not one of ours") from error
    return Header.from_text(text, path)


@dataclass(frozen=True)
class KeptModel:
    """The file of a kept source model, and its header."""

    path: Path
    header: Header

    @cached_property
    def subset(self) -> str:
        """A hash of the model's subset and training seed."""
        return _key(self.header.subset, self.header.seed)

    @cached_property
    def source(self) -> tuple[str, str]:
        """A hash of the model's source recipe, and one of the source's data, as `data` in a config would be."""
        return self.header.recipe, fingerprint([self.header.fingerprint])


def scan(folder: Path) -> list[KeptModel]:
    """Return the kept models in the folder of a run, a study, or several studies, those in float32 first.

    Raises ModelError when there is none, and for a file that cannot be used.
    """
    paths = [path for depth in ("", "*/", "*/*/") for path in sorted(folder.glob(f"{depth}{names.MODEL}"))]
    if not paths:
        raise ModelError(f"models={folder}: there are no kept source models; keep_model=float32 keeps those of a sweep")
    models = [KeptModel(path, read_header(path)) for path in paths]
    return sorted(models, key=lambda model: model.header.dtype != "float32")


def choose(config: Config, is_named: bool, scan: Callable[[Path], Sequence[KeptModel]] = scan) -> list[dict[str, Any]]:
    """Return the configs of the runs that a resolved config with `models` stands for, with `models` replaced.

    One for each kept model of the config's source recipe; where the command line names a subset or seed (`is_named`),
    the one for the config's own. `models` becomes the file and its dtype.

    Raises ModelError when there is no such model.
    """
    if not isinstance(config.get("models"), str):
        return [dict(config)]
    folder, chosen = Path(config["models"]), dict[str, KeptModel]()
    kept, source = scan(folder), _source(config)
    for model in kept:
        if _agree(model.source, source):
            chosen.setdefault(model.subset, model)
    if not chosen:
        changed = differences(kept[0].header.settings, names.source_recipe(config)) or ["the data of the source"]
        raise ModelError(f"models={folder}: its source models are of other settings: {first_names(changed)}")
    if is_named:
        if (key := _key(config["subset"], config["seed"])) not in chosen:
            raise ModelError(
                f"models={folder}: none of its {len(kept)} source models is of this subset and seed"
                f" ({names.run_name(config)}); without subset and seed on the command line, all are taken"
            )
        chosen = {key: chosen[key]}
    return [_with_model(config, model) for model in chosen.values()]


def reusable(config: Config) -> Iterator[KeptModel]:
    """Yield kept models below `runs_dir` that a run would train anew; unusable files, and rounded models, are passed.

    Runs on several devices train their own: all processes of a run must go the same way.
    """
    if config.get("models") or (config.get("trainer") or {}).get("devices", 1) != 1:
        return
    for path in sorted(Path(config["runs_dir"]).glob(f"*/{names.run_name(config)}/{names.MODEL}")):
        with suppress(ModelError):
            model = KeptModel(path, read_header(path))
            if model.header.dtype == "float32" and _agree(model.source, _source(config)):
                yield model


def overrides(line: Sequence[str], config: Config) -> list[str]:
    """Return the overrides of a run that `choose` gave, whose `models` is the folder of its own kept model."""
    if not (models := config.get("models")):
        return list(line)
    kept = f"models={quote(str(Path(models['root']).parent))}"
    return [*(item for item in line if override_key(item) != "models"), kept]


def differences(kept: Any, current: Any, setting: str = "") -> list[str]:
    """Return in which settings two source recipes differ, and how.

    >>> differences({"model": {"width": 8}}, {"model": {"width": 16}})
    ['model.width (8 there, 16 here)']
    """
    if isinstance(kept, Mapping) and isinstance(current, Mapping):
        keys = dict.fromkeys([*current, *kept])
        below = (
            differences(kept.get(key), current.get(key), f"{setting}.{key}" if setting else str(key)) for key in keys
        )
        return [line for lines in below for line in lines]
    return [] if fingerprint(kept) == fingerprint(current) else [f"{setting} ({kept} there, {current} here)"]


def _with_model(config: Config, model: KeptModel) -> dict[str, Any]:
    """Return a config with the subset, seed and file of a kept model. Raises ModelError for a subset we do not draw."""
    header = model.header
    design = header.subset["design"]
    if design not in DESIGNS and design != config["subset"]["design"]:
        raise ModelError(f"{model.path}: its subset is of the design {design}: choose it by subset.design={design}")
    if any(isinstance(value, str) and Path(value).is_file() for value in header.subset.values()):
        raise ModelError(f"{model.path}: its subset names a file; a header holds what was in it")
    models = {"root": str(model.path), "dtype": header.dtype}
    return {**config, "subset": dict(header.subset), "seed": header.seed, "models": models}


def _source(config: Config) -> tuple[str, str | None]:
    """Return a hash of a resolved config's source recipe, and its source's `data`; None: not known by name."""
    return fingerprint(names.source_recipe(config)), config["source"].get(names.DATA)


def _agree(kept: tuple[str, str], source: tuple[str, str | None]) -> bool:
    return kept[0] == source[0] and source[1] in (None, kept[1])


def _key(subset: Mapping[str, Any], seed: int) -> str:
    return fingerprint([subset, seed], length=64)
