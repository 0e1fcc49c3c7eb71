"""What a sweep says of kept source models before it starts: how many it uses again, and the disk that others need."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sourcewise.core import names
from sourcewise.core.names import Config
from sourcewise.records import source_models


def kept_lines(configs: Sequence[Config], model_bytes: Callable[[Config], int | None]) -> Iterator[str]:
    """Yield lines on the source models of runs that are not done.

    model_bytes: the bytes of a kept model of a config, if it can be known. Asked once.
    """
    trained = [config for config in configs if not (config.get("models") or any(source_models.reusable(config)))]
    if reused := len(configs) - len(trained):
        yield f"{reused} of {len(configs)} runs transfer a kept source model, and pretrain none"
    keeping = [config for config in trained if names.kept_dtype(config)]
    if keeping and (size := model_bytes(keeping[0])):
        folder = Path(keeping[0]["runs_dir"]).absolute()
        free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
        total = len(keeping) * size
        line = f"{len(keeping)} source models will be kept, {_bytes(size)} each, {_bytes(total)} in all;"
        lack = ": those that do not fit are not kept" if total > free else ""
        yield f"{line} {_bytes(free)} are free in {keeping[0]['runs_dir']}{lack}"


def _bytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.1f} kB"
