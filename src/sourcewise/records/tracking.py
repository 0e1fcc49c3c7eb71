"""Weights & Biases, the writing side: every run is a W&B run, and no trouble with W&B ever costs a run.

wandb is imported by this module only, and only when a run is tracked. `sourcewise.records.remote` reads runs back.
"""

import json
import os
import secrets
import shlex
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sourcewise.core.errors import EXIT_LEASED, WORKER, SourcewiseError
from sourcewise.core.names import RECORD

if TYPE_CHECKING:
    from sourcewise.records.record import Record

KILLED = 255
"""The exit code that W&B shows as killed."""

SWEEP = "SOURCEWISE_SWEEP"
"""The W&B sweep that a block of runs belongs to; each of them carries the tag `sweep-<id>`."""

NAMES_LIMIT = 20_000
"""Characters of group names that every run's summary may hold."""

PAUSE = 300.0
"""Seconds for which a process that could not reach W&B starts its next runs offline, without trying again."""


@dataclass
class TrackedRun:
    """What a run tells its tracker while it goes on; without a W&B run, nothing is kept. None of it raises."""

    run: Any = None
    told: bool = False
    media: dict[str, int] = field(default_factory=dict)  # with how many stand side by side
    tables: list[str] = field(default_factory=list)

    def log(self, scalars: Mapping[str, float]) -> None:
        """Add a point to the scalar history."""
        self._try(lambda: self.run.log(dict(scalars)))

    def record(self, result: "Record") -> None:
        """Keep a run's record, its metrics, and its subset (so that metrics alone can be estimated from)."""
        if self.run is None:
            return
        import numpy as np

        from sourcewise.records import record

        names = result.header.group_names
        about: dict[str, Any] = {
            "subset/groups": len(result.mask),
            "subset/mask": np.packbits(result.mask).tobytes().hex(),
        }
        if names is not None and len(json.dumps(names)) <= NAMES_LIMIT:
            about["subset/names"] = names
        self._try(lambda: self.run.summary.update({**result.header.metrics, **about}))
        self.save(record.to_bytes(result), RECORD)

    def figure(self, name: str, figure: Any) -> None:
        """Log a plotly figure."""
        self.media[name] = 1
        self._show(name, lambda wandb: wandb.Plotly(figure))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Log a table."""
        self.tables.append(name)
        self._show(name, lambda wandb: wandb.Table(columns=list(columns), data=[list(row) for row in rows]))

    def images(self, name: str, images: Sequence[tuple[Any, str]]) -> None:
        """Log images, uint8[height, width] or [height, width, 3], each with a caption."""
        if images:
            self.media[name] = 5
            self._show(name, lambda wandb: [wandb.Image(pixels, caption=words) for pixels, words in images])

    def report(self, title: str, paragraphs: Sequence[str], scores: Sequence[str]) -> None:
        """Make a W&B Report of what this run logged, and of these scalars of the study's runs."""

        def report() -> None:
            if self.run.offline:
                raise SourcewiseError("no report, since W&B's server was not reached")
            from wandb_workspaces.expr import And, Metric

            wr: Any = import_module("wandb_workspaces.reports.v2")
            place = {"entity": self.run.entity, "project": self.run.project}

            def grid(name: str, filters: Any, panels: list[Any]) -> list[Any]:
                runs = wr.Runset(**place, name=name, filters=filters)
                return [wr.H2(name), wr.PanelGrid(runsets=[runs], panels=panels)]

            points = [wr.ScatterPlot(x=wr.Config("subset.seed"), y=wr.SummaryMetric(name)) for name in scores]
            panels = [wr.MediaBrowser(media_keys=[name], num_columns=n) for name, n in self.media.items()]
            panels += [wr.WeavePanelSummaryTable(table_name=name) for name in self.tables]
            for row, panel in enumerate(panels):
                panel.layout = wr.Layout(y=12 * row, w=24, h=12)
            study = And(Metric("Group") == self.run.group, Metric("JobType") == "run")
            blocks = [
                *map(wr.P, paragraphs),
                *grid("Runs of the study, by subset", study, points),
                *grid("Influences", And(Metric("ID") == self.run.id), panels),
            ]
            made = wr.Report(**place, title=title[:128], blocks=blocks, width="fluid").save()
            _say(f"report: {made.url}")

        self._try(report)

    def save(self, content: bytes | Path, name: str) -> None:
        """Keep a file with the run, as run file `name`."""

        def save() -> None:
            path = Path(self.run.dir) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
            self.run.save(str(path), base_path=self.run.dir, policy="end")

        self._try(save)

    def artifact(self, name: str, kind: str, files: Mapping[str, Path], about: Mapping[str, Any]) -> None:
        """Log files, by their names in it, as an artifact of this kind. about: its metadata, JSON."""

        def log() -> None:
            import wandb

            artifact = wandb.Artifact(name, kind, metadata=dict(about))
            for inside, path in files.items():
                artifact.add_file(str(path), inside)
            self.run.log_artifact(artifact)

        self._try(log)

    def _show(self, name: str, made: Callable[[Any], Any]) -> None:
        self._try(lambda: self.run.log({name: made(import_module("wandb"))}))

    def _try(self, call: Callable[[], Any]) -> None:
        """Trouble with W&B is told once, and never the run's."""
        if self.run is None:
            return
        try:
            call()
        except Exception as error:
            if not self.told:
                self.told = True
                _say(f"not everything of this run is tracked: {_one_line(error)}")


@dataclass(frozen=True)
class NoTracker:
    """Tracks nothing."""

    @contextmanager
    def start(self, name: str, study: str, config: Mapping[str, Any], job: str = "run") -> Iterator[TrackedRun]:
        """A run of which nothing is kept."""
        yield TrackedRun()


@dataclass(frozen=True)
class WandbTracker:
    """Every run is a W&B run: config, scalars, group = study, the record as a run file; see conf/logger/wandb.yaml."""

    project: str = "sourcewise"
    entity: str | None = None
    mode: Literal["auto", "online", "offline"] = "auto"
    tags: list[str] = field(default_factory=list)
    dir: str = "runs"
    init_timeout: float = 20.0
    finish_timeout: float = 60.0

    @contextmanager
    def start(self, name: str, study: str, config: Mapping[str, Any], job: str = "run") -> Iterator[TrackedRun]:
        """A W&B run of its own, finished with exit code 0, 1 on an exception, or 255 when interrupted.

        Without W&B's server it is an offline run, and one line on stderr says how to upload it.
        """
        run = self._open(name, study, config, job)
        tracked, code = TrackedRun(run), KILLED  # KeyboardInterrupt, and the SystemExit that Lightning makes of it
        try:
            tracked._try(lambda: run.define_metric("source/*", step_metric="source/epoch"))
            tracked._try(lambda: _keep_config(run, config))
            yield tracked
            code = 0
        except Exception:
            code = 1
            raise
        finally:
            _finish(run, code)

    def _open(self, name: str, study: str, config: Mapping[str, Any], job: str) -> Any:
        """The W&B run, offline if need be; None when there can be none."""
        try:
            mode, why = _mode(self.mode), ""
            if mode == "disabled":
                return None
            if mode == "online" and time.monotonic() < _server.down_until:
                mode, why = "offline", _server.why
            import wandb

            # wandb leaves a temporary folder of its own to the interpreter's end.
            warnings.filterwarnings("ignore", "Implicitly cleaning up", ResourceWarning)
            Path(self.dir).mkdir(parents=True, exist_ok=True)
            wandb.setup(wandb.Settings(silent=True))
            # An agent, or the user, may have set an id for this process: its first run takes it.
            given = None if WORKER in os.environ else os.environ.pop("WANDB_RUN_ID", None)
            id = given or secrets.token_hex(6)
            sweep = os.environ.get(SWEEP)
            settings = {"init_timeout": self.init_timeout, "finish_timeout": self.finish_timeout, **_LEAN}
            init: dict[str, Any] = {
                "project": self.project,
                "entity": self.entity,
                "dir": self.dir,
                "id": id,
                "name": name,
                "group": study or None,
                "tags": [*self.tags, *([f"sweep-{sweep}"] if sweep else [])],
                "job_type": job,
                "config": dict(config),
                "reinit": "create_new",  # never another run of this process
                "settings": wandb.Settings(**settings),
            }
            run = None
            if mode == "online":
                try:
                    run = wandb.init(mode="online", **init)
                except Exception as error:
                    why = _one_line(error)
                    _server.down_until, _server.why = time.monotonic() + PAUSE, why
                    for folder in Path(self.dir).glob(f"wandb/run-*-{id}"):  # a log without a run
                        shutil.rmtree(folder, ignore_errors=True)
                    init["id"] = secrets.token_hex(6)  # the service still holds on to the other
            run = run or wandb.init(mode="offline", **init)
        except Exception as error:
            _say(f"this run is not tracked: {_one_line(error)}")
            return None
        if why:
            _say(f"{why}; this run is offline, upload it later: wandb sync {_folder(run)}")
        return run


def check_report(tracker: NoTracker | WandbTracker) -> None:
    """Raise SourcewiseError if a run of this tracker cannot make a W&B Report, which needs W&B's server."""
    if not isinstance(tracker, WandbTracker):
        raise SourcewiseError("wandb_report=true: logger=none tracks nothing; leave one of them out")
    if find_spec("wandb_workspaces") is None:
        raise SourcewiseError("wandb_report=true: needs wandb-workspaces; pip install 'sourcewise[reports]'")
    if _mode(tracker.mode) != "online":
        raise SourcewiseError("wandb_report=true: W&B is offline; log in (wandb login), or set logger.mode=online")


@contextmanager
def agents_job() -> Iterator[None]:
    """Around a command: the run that a W&B agent has for it ends with the command's exit code, whatever it does.

    A run of ours takes the agent's. With `train.py -m` every run is a W&B run of its own with the tag `sweep-<id>`, and
    the agent's run stands for the block. It also stands for what fails before a run of ours has begun.
    """
    if not under_agent():
        yield
        return
    block, given, code = bool({"-m", "--multirun"} & set(sys.argv)), {}, KILLED
    if block:
        given = {name: os.environ.pop(name) for name in _AGENT if name in os.environ}
        os.environ[SWEEP] = given["WANDB_SWEEP_ID"]
    try:
        yield
        code = 0
    except SystemExit as error:
        # A run that someone else is doing is no failure of this one.
        code = 0 if error.code in (None, 0, EXIT_LEASED) else KILLED if error.code in (130, 143) else 1
        raise
    except Exception:
        code = 1
        raise
    finally:
        os.environ.pop(SWEEP, None)
        os.environ.update(given)
        if "WANDB_RUN_ID" in os.environ:  # no run of ours has taken it
            config = {"overrides": [arg for arg in sys.argv[1:] if "=" in arg]}
            tracker = WandbTracker(dir=os.environ.get("WANDB_DIR", "."))
            _finish(tracker._open(" ".join(config["overrides"]), "", config, "block"), code)


def under_agent() -> bool:
    """Whether a W&B agent waits for a W&B run from this process."""
    return (
        "WANDB_SWEEP_ID" in os.environ
        and WORKER not in os.environ
        and os.environ.get("LOCAL_RANK", "0") == "0"  # under DDP, one process speaks for the run
    )


def server() -> tuple[str, str]:
    """W&B's address, and the user's key or "" if there is none."""
    import wandb
    from wandb.sdk.lib.wbauth import read_netrc_auth

    settings = wandb.setup(wandb.Settings(silent=True)).settings
    url = str(os.environ.get("WANDB_BASE_URL") or settings.base_url).rstrip("/")
    key = os.environ.get("WANDB_API_KEY") or read_netrc_auth(host=url) or settings.api_key
    return url, str(key or "")


_LEAN: dict[str, Any] = {
    "silent": True,
    "console": "off",
    "disable_git": True,
    "disable_code": True,
    "disable_job_creation": True,
    "finish_timeout_raises": True,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}
"""What a record holds already, or what costs time in every run of a sweep, is off."""

_AGENT = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH")
"""What an agent tells the process that it starts."""


@dataclass
class _Server:
    down_until: float = 0.0
    why: str = ""


_server = _Server()


def _finish(run: Any, code: int) -> None:
    """End a run with its exit code; what could not be uploaded stays on disk, and one line says how to upload it."""
    if run is None:
        return
    try:
        run.finish(exit_code=code)
    except Exception as error:
        why = "not everything was uploaded in time" if isinstance(error, TimeoutError) else _one_line(error)
        online = "" if run.offline else "--include-online "
        _server.down_until, _server.why = time.monotonic() + PAUSE, why
        _say(f"{why}; upload this run later: wandb sync {online}{_folder(run)}")


def _keep_config(run: Any, config: Mapping[str, Any]) -> None:
    """A sweep's parameter that is called like a section (`model=resnet9`) hides it; keep those under `resolved`."""
    hidden = {key: value for key, value in config.items() if run.config.get(key) != value}
    if hidden:
        run.config.update({"resolved": hidden})


def _mode(setting: str) -> str:
    """online, offline or disabled: what was asked for here, then WANDB_MODE, then online for who is logged in."""
    if setting != "auto":
        return setting
    if mode := os.environ.get("WANDB_MODE"):
        return {"dryrun": "offline", "offline": "offline", "disabled": "disabled"}.get(mode, "online")
    return "online" if os.environ.get("WANDB_IDENTITY_TOKEN_FILE") or server()[1] else "offline"


def _folder(run: Any) -> str:
    return shlex.quote(str(Path(run.dir).parent))


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()).partition(" Consider increasing")[0]
    return text[:300] or type(error).__name__


def _say(text: str) -> None:
    with suppress(OSError, ValueError):
        print(f"W&B: {text}", file=sys.stderr, flush=True)
