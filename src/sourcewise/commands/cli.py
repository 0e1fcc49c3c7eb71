"""What both commands share: a config checked and resolved, and exceptions turned into one line and an exit status."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from errno import EACCES, EDQUOT, EEXIST, EISDIR, ENAMETOOLONG, ENOENT, ENOSPC, ENOTDIR, EPERM, EROFS
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.utils import instantiate
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from sourcewise.core import settings
from sourcewise.core.errors import VERBOSE, SourcewiseError, did_you_mean
from sourcewise.core.overrides import quote
from sourcewise.sweep.composition import plain

if TYPE_CHECKING:
    from sourcewise.data import ImageDataset
    from sourcewise.records.record import Header

_DISKS = frozenset((ENOSPC, EDQUOT, EACCES, EPERM, EROFS, ENAMETOOLONG, ENOENT, EEXIST, ENOTDIR, EISDIR))
"""What a disk says that a user can do something about."""
_USERS = (SourcewiseError, HydraException, OmegaConfBaseException)  # exceptions that speak to the user


def resolve(config: DictConfig, kind: type) -> dict[str, Any]:
    """The config as plain containers, all interpolations resolved, whose top level is as the dataclass `kind` says.

    Raises SourcewiseError for a key that it does not have, or a value of another type; OmegaConf raises for a missing
    (`???`) value.
    """
    resolved = plain(config)
    settings.check_top_level(kind, resolved)
    return resolved


_NO_RECIPE = ("logger.", "subset.", "trainer.accelerator", "trainer._target_")
"""Settings of a run that do not choose what it is a model of."""


def overrides(config: Mapping[str, Any]) -> list[str]:
    """What to add to `python train.py` for the recipe and the runs_dir of a resolved config; within a Hydra main.

    Ends with `...` where that cannot be told: then the overrides that the runs were trained with go there.
    """
    if not GlobalHydra.instance().is_initialized() or "target" not in config:
        return ["..."]

    def composed(*chosen: str) -> dict[str, Any]:
        return plain(compose("train", list(chosen)))

    def choices(of: Mapping[str, Any]) -> list[str]:
        names = [f"target=[{','.join(of['target'])}]", f"model={of['model']['name']}"]
        return [
            f"source={of['source']['name']}",
            *names,
            f"transfer={of['transfer']['_target_'].rpartition('.')[2].lower()}",
        ]

    usual = choices(composed())
    try:
        found = [choice for choice in choices(config) if choice not in usual]
        given = _flat(composed(*found))
    except (HydraException, KeyError, TypeError):
        return ["..."]
    wanted = _flat(config)
    for key, value in wanted.items():
        general = f"transfer.{key.rpartition('.')[2]}" if key.startswith("target.") else ""
        if general in wanted and (value, given.get(key)) == (wanted[general], given.get(general)):
            continue  # a target takes the transfer settings
        if key.startswith(_NO_RECIPE) or key == "seed" or given.get(key) == value:
            continue
        found.append(f"{key}={quote(value)}" if key in given and "_target_" not in key else "...")
    return found


def images(chosen: Mapping[str, Any] | str | None, header: Header) -> dict[str, ImageDataset]:
    """The targets' test examples and, under "", the source if its examples are groups; within a Hydra main.

    chosen: settings of train.py that choose them, `auto` for those that are at hand, or null for none. Raises
    SourcewiseError when settings choose other images than those of the records.
    """
    from sourcewise.data import regroup  # torch is slow to import, and only images need it

    if chosen is None or isinstance(chosen, str):
        return _at_hand(header) if chosen else {}
    words = [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in chosen.items()]
    try:
        config = compose("train", words)
    except ValueError as error:  # such as a group that is a number
        raise SourcewiseError(f"images={dict(chosen)}: {error}") from error
    found = {name: instantiate(of.test) for name, of in config.target.items()}
    if header.group_names is None:
        found = {"": regroup(instantiate(config.source.train), "example"), **found}
    for name, dataset in found.items():
        if dataset.fingerprint not in header.fingerprints.values():
            raise SourcewiseError(f"images: {name or config.source.name} has other images or groups than the records")
    return found


def _at_hand(header: Header) -> dict[str, ImageDataset]:
    """As `images`, what is to be had without making any files: stores of targets, and datasets in memory.

    Stores that are there are known by their fingerprint. In memory is what conf/ makes under the names that the records
    have for source and targets. Nothing else of records is used, since they may come from elsewhere.
    """
    from sourcewise.data import regroup
    from sourcewise.data.load import stored

    source, nodes, found = header.config["source"]["name"], dict[str, Any](), dict[str, Any]()
    plain = all(re.fullmatch(r"[\w-]+", str(name)) for name in (source, *header.class_names))
    with suppress(*_USERS):
        if plain and GlobalHydra.instance().is_initialized():
            config = compose("train", [f"source='{source}'", f"target={list(header.class_names)}"])
            nodes = {"": config.source.train, **{name: of.test for name, of in config.target.items()}}
    for name in (*header.class_names, *([] if header.group_names else [""])):
        fingerprint = header.fingerprints.get(f"{name}/test" if name else source)
        with suppress(*_USERS):
            dataset = stored(fingerprint)
            if dataset is None and name in nodes and nodes[name]._target_ != "sourcewise.data.load.load":
                dataset = instantiate(nodes[name]) if name else regroup(instantiate(nodes[name]), "example")
            if dataset is not None and dataset.fingerprint == fingerprint:
                found[name] = dataset
    return found


def _flat(node: Any, where: str = "") -> dict[str, Any]:
    """Values by dotted name; a list is a value."""
    if not isinstance(node, Mapping):
        return {where: node}
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= _flat(value, f"{where}.{key}" if where else str(key))
    return found


@contextmanager
def errors() -> Iterator[None]:
    """A user's error ends the process with one line on stderr and its status; any other passes with its traceback.

    SIGTERM and SIGHUP end it as Ctrl-C does. Goes around a command, and again inside its Hydra main, before Hydra adds
    lines of its own. With `-v`, which Hydra does not know, any error has its traceback, and libraries may speak.
    """
    if "-v" in sys.argv[1:]:
        sys.argv.remove("-v")
        os.environ[VERBOSE] = "1"
    if VERBOSE in os.environ:
        logging.basicConfig(level=logging.INFO)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then lets exceptions through to us
    caught = [signal.SIGINT]

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        caught[0] = signal.Signals(number)
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, interrupt)
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:  # who reads our output, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the interpreter's own flush at its end
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
        sys.exit(128 + caught[0])
    except Exception as error:
        cause = users_error(error)
        if cause is None or VERBOSE in os.environ:
            raise
        print(f"{Path(sys.argv[0]).name}: {_one_line(cause)}", file=sys.stderr)
        sys.exit(getattr(cause, "status", 2))


def users_error(error: BaseException) -> Exception | None:
    """The exception in the chain that speaks to the user, innermost SourcewiseError first; None for our own bugs."""
    chain = _chain(error)
    for kind in _USERS:
        for item in chain:
            if isinstance(item, kind):
                return item
    for item in chain:
        if isinstance(item, OSError) and item.errno in _DISKS and item.filename is not None:
            return item
        if isinstance(item, ValueError) and str(item).startswith(("Config group override must be", "range() arg")):
            return item
    return None


def say_metrics(folder: Path, metrics: Mapping[str, float]) -> None:
    """Print where a run's record is and how well it did, from the one process that speaks for the run."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return
    print(folder)
    for name, value in metrics.items():
        print(f"  {name:<40} {value:.4f}")


def _one_line(error: Exception) -> str:
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        folders = re.findall(r"path=file://(.+)", str(error))
        files = (path for folder in folders for path in Path(folder, group).glob("*.yaml"))
        options = sorted({path.stem for path in files if not path.stem.startswith("base")})
        return f"{group}={name}: there is no such option{did_you_mean(name, options)} (there are {', '.join(options)})"
    if isinstance(error, OSError):
        return printable(f"{error.filename}: {error.strerror}")
    for cause in _chain(error):
        if isinstance(cause, OverrideParseException):
            key, _, value = cause.override.partition("=")
            quoted = shlex.quote(f"{key}={quote(value)}")
            return printable(f"{cause.override}: this cannot be read; as text, its value needs quotes: {quoted}")
        if isinstance(cause, MissingMandatoryValue):
            return f"{cause.full_key}: this has no default; give it a value"
        if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.parent_node is not None:
            known = [str(key) for key in cause.parent_node if key != "hydra"]
            hint = did_you_mean(str(cause.key), known) or f"; there are {', '.join(known)}"
            return f"{cause.full_key}: there is no such setting{hint}"
    return printable(" ".join(str(error).replace("Set the environment variable HYDRA_FULL_ERROR=1", "").split()))


def printable(text: str) -> str:
    """The text without what a terminal would obey: names come from records and servers of others."""
    return "".join(character if character.isprintable() or character == "\n" else "?" for character in text)


def _chain(error: BaseException) -> list[BaseException]:
    """An exception and what it came from."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    return chain
