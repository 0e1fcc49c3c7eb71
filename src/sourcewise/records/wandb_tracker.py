"""Opening and finishing W&B runs (`logger=wandb`): every run of ours is a W&B run, and none depends on W&B.

A command that a W&B agent starts answers for the W&B run that the agent has for it. No other module imports wandb to
write, and this one only when a run is tracked. `wandb_reader` reads runs back.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from sourcewise.core import names
from sourcewise.core.errors import EXIT_LEASED, WORKER, SourcewiseError
from sourcewise.core.files import cache_folder, check_place
from sourcewise.records import browsing, uploads
from sourcewise.records.tracker import TrackedRun, Tracker
from sourcewise.records.uploads import Note
from sourcewise.records.wandb_run import WandbRun, one_line, warn

KILLED = 255
"""The exit code that W&B shows as killed."""

SWEEP = "SOURCEWISE_SWEEP"
"""In the environment of a block of runs: the W&B sweep that it belongs to. Each run carries the tag `sweep-<id>`, and
so does a run that began in a sweep and is done again outside of it."""

AGENT_VARIABLES = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH")
"""What an agent puts into the environment of a command."""

PAUSE = 300.0
"""Seconds for which a process that could not reach W&B starts its next runs offline, without another attempt."""

LEAN: Mapping[str, Any] = {
    "silent": True,
    "disable_git": True,
    "disable_code": True,
    "disable_job_creation": True,
    "finish_timeout_raises": True,
    "x_disable_meta": True,
    "x_save_requirements": False,
}
"""Settings of wandb that switch off what a record holds already, or what costs time in every run of a sweep."""


@dataclass(frozen=True)
class WandbTracker(Tracker):
    """Makes every run a W&B run: config, scalars, group = study, the record as a file; see conf/logger/wandb.yaml."""

    project: str = "sourcewise"
    entity: str | None = None
    mode: Literal["auto", "online", "offline"] = "auto"
    tags: list[str] = field(default_factory=list)
    dir: str = "runs"
    init_timeout: float = 20.0
    finish_timeout: float = 60.0
    system_metrics: bool = False
    console: bool = False

    @contextmanager
    def start(self, name: str, study: str, config: Mapping[str, Any], job: str = "run") -> Iterator[TrackedRun]:
        """Return the context of a new W&B run, which ends with exit code 0, 1 on an exception, or 255 when interrupted.

        Without W&B's server it is an offline run, and one line on stderr says how to upload it.
        """
        folder = Path(config["runs_dir"], study, name) if job == "run" and "runs_dir" in config else None
        tracked = self.open(name, study, config, job, folder)
        if tracked is None:
            yield TrackedRun()
            return
        code = KILLED  # KeyboardInterrupt, and the SystemExit that Lightning makes of it
        try:
            with tracked.quietly():
                # A sweep's parameter such as `model=resnet9` hides the section of the same name.
                shown = browsing.shown_config(config)
                if hidden := {key: value for key, value in shown.items() if tracked.run.config.get(key) != value}:
                    tracked.run.config.update({"resolved": hidden})
            yield tracked
            code = 0
        except BaseException as error:
            code = 1 if isinstance(error, Exception) else KILLED
            tracked.fail(error, code == KILLED, folder / names.LOG if folder else None)
            raise
        finally:
            finish(tracked, code)

    def closing_line(self, folders: Sequence[Path]) -> str:
        """Return how many runs W&B has, by their folders, and the command that uploads the others."""
        return uploads.closing_line(Path(self.dir, "wandb"), folders)

    def check_report(self) -> None:
        """Raise SourcewiseError if a run cannot make a W&B Report, which needs a package and W&B's server."""
        if find_spec("wandb_workspaces") is None:
            raise SourcewiseError("wandb_report=true: needs wandb-workspaces; pip install 'sourcewise[reports]'")
        if resolved_mode(self.mode) != "online":
            raise SourcewiseError("wandb_report=true: W&B is offline; log in (wandb login), or set logger.mode=online")

    def open(
        self, name: str, study: str, config: Mapping[str, Any], job: str, folder: Path | None = None
    ) -> WandbRun | None:
        """Return a new W&B run, offline if need be; None, after a line on stderr, when there can be none.

        folder: where a note of it is kept.
        """
        try:
            mode, reason = resolved_mode(self.mode), ""
            if mode == "disabled":
                return None
            if mode == "online" and time.monotonic() < _outage.until:
                mode, reason = "offline", _outage.reason
            import wandb

            # wandb leaves a temporary folder to the interpreter's end.
            warnings.filterwarnings("ignore", "Implicitly cleaning up", ResourceWarning)
            Path(self.dir).mkdir(parents=True, exist_ok=True)
            self._place_cache()
            wandb.setup(wandb.Settings(silent=True))
            # An agent, or the user, may have set an id for this process: its first run takes it.
            given_id = None if WORKER in os.environ else os.environ.pop("WANDB_RUN_ID", None)
            earlier = uploads.read(folder) if folder else None
            agent = None if WORKER in os.environ else os.environ.get("WANDB_SWEEP_ID")
            sweep = os.environ.get(SWEEP) or agent or (earlier.sweep if earlier else None)
            tags = [*self.tags, *browsing.tags(config), *([f"sweep-{sweep}"] if sweep and not agent else [])]
            arguments: dict[str, Any] = {
                "project": self.project,
                "entity": self.entity,
                "dir": self.dir,
                "id": given_id or secrets.token_hex(6),
                "name": name,
                "group": study or None,
                "tags": list(dict.fromkeys(tags)),
                "job_type": job,
                "config": browsing.shown_config(config),
                "reinit": "create_new",  # never another run of this process
                "settings": wandb.Settings(**self._settings()),
            }
            run = None
            if mode == "online":
                try:
                    run = wandb.init(mode="online", **arguments)
                except Exception as error:
                    reason = one_line(error)
                    _outage.begin(reason)
                    for log in Path(self.dir).glob(f"wandb/run-*-{arguments['id']}"):  # a log without a run
                        shutil.rmtree(log, ignore_errors=True)
                    arguments["id"] = secrets.token_hex(6)  # wandb's service still holds the run of the first id
            run = run or wandb.init(mode="offline", **arguments)
        except Exception as error:
            warn(f"this run is not tracked: {one_line(error)}")
            return None
        if reason:
            warn(f"{reason}; this run is offline, upload it later: {_sync_command(run)}")
        tracked = WandbRun(run, wandb, folder, sweep)
        tracked.keep_note(uploaded=False)
        return tracked

    def _place_cache(self) -> None:
        """Put wandb's cache beside its runs where the user's cannot be written to: its service would log on stderr."""
        try:
            check_place(cache_folder())
        except (SourcewiseError, OSError):  # such as the home of another user
            os.environ.setdefault("WANDB_CACHE_DIR", str(Path(self.dir, "wandb", "cache").absolute()))

    def _settings(self) -> dict[str, Any]:
        """Return the settings of wandb for a run."""
        return {
            **LEAN,
            "x_disable_stats": not self.system_metrics,
            "x_disable_machine_info": not self.system_metrics,  # without it, there are no metrics
            "console": "wrap" if self.console else "off",
            "init_timeout": self.init_timeout,
            "finish_timeout": self.finish_timeout,
        }


def finish(tracked: WandbRun, code: int) -> None:
    """End a run with its exit code. What could not be uploaded stays on disk, and one line says how to upload it."""
    try:
        tracked.run.finish(exit_code=code)
    except Exception as error:
        reason = "not everything was uploaded in time" if isinstance(error, TimeoutError) else one_line(error)
        _outage.begin(reason)
        warn(f"{reason}; upload this run later: {_sync_command(tracked.run)}")
    else:
        tracked.keep_note(uploaded=not tracked.run.offline)


def _sync_command(run: Any) -> str:
    """Return the command line that uploads a W&B run from this machine."""
    log = Path(run.dir).parent
    return uploads.sync_command(log.parent, [Note(log.name)])


def resolved_mode(setting: str) -> str:
    """Return online, offline or disabled: the setting, else WANDB_MODE, else online for a user who is logged in."""
    if setting != "auto":
        return setting
    if mode := os.environ.get("WANDB_MODE"):
        return {"dryrun": "offline", "offline": "offline", "disabled": "disabled"}.get(mode, "online")
    return "online" if _is_logged_in() else "offline"


def _is_logged_in() -> bool:
    if any(os.environ.get(name) for name in ("WANDB_IDENTITY_TOKEN_FILE", "WANDB_API_KEY")):
        return True
    import wandb
    from wandb.sdk.lib.wbauth import read_netrc_auth

    return bool(read_netrc_auth(host=server_url()) or wandb.setup(wandb.Settings(silent=True)).settings.api_key)


def server_url() -> str:
    """Return the address of W&B's server, as wandb's client will choose it."""
    import wandb

    url = os.environ.get("WANDB_BASE_URL") or wandb.setup(wandb.Settings(silent=True)).settings.base_url
    return str(url).rstrip("/")


def run_page(path: str) -> str:
    """Return the address of a run's page, by its path `entity/project/id`."""
    import wandb

    entity, project, run = (quote(part, safe="") for part in path.split("/", 2))
    return f"{wandb.Settings(base_url=server_url()).app_url}/{entity}/{project}/runs/{run}"


@dataclass
class _Outage:
    """Until when this process takes W&B for unreachable (by the monotonic clock), and why."""

    until: float = 0.0
    reason: str = ""

    def begin(self, reason: str) -> None:
        self.until, self.reason = time.monotonic() + PAUSE, reason


_outage = _Outage()


def under_agent() -> bool:
    """Return whether a W&B agent waits for a W&B run from this process."""
    return (
        "WANDB_SWEEP_ID" in os.environ
        and WORKER not in os.environ
        and os.environ.get("LOCAL_RANK", "0") == "0"  # under DDP, one process speaks for the run
    )


@contextmanager
def answering_agent() -> Iterator[None]:
    """End the run that a W&B agent has for the command inside with the command's exit code, whatever it does.

    A run of ours takes the agent's. With `train.py -m` every run is a W&B run with the tag `sweep-<id>`, and the
    agent's run stands for the block. It also stands for what fails before a run of ours has begun.
    """
    if not under_agent():
        yield
        return
    is_block, taken, code = bool({"-m", "--multirun"} & set(sys.argv)), {}, KILLED
    failure: BaseException = KeyboardInterrupt()
    if is_block:
        taken = {name: os.environ.pop(name) for name in AGENT_VARIABLES if name in os.environ}
        os.environ[SWEEP] = taken["WANDB_SWEEP_ID"]
    try:
        yield
        code = 0
    except SystemExit as error:
        # A run that someone else is doing is no failure of this one.
        code = 0 if error.code in (None, 0, EXIT_LEASED) else KILLED if error.code in (130, 143) else 1
        failure = error
        raise
    except Exception as error:
        code, failure = 1, error
        raise
    finally:
        os.environ.pop(SWEEP, None)
        os.environ.update(taken)
        if "WANDB_RUN_ID" in os.environ:  # no run of ours has taken it
            overrides = [argument for argument in sys.argv[1:] if "=" in argument]
            tracker = WandbTracker(dir=os.environ.get("WANDB_DIR", "."))
            if tracked := tracker.open(" ".join(overrides), "", {"overrides": overrides}, "block"):
                if code:
                    tracked.fail(failure, code == KILLED)
                finish(tracked, code)
