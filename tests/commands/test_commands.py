"""The two commands as a user types them: what they print, what they leave, and how they fail."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from conftest import ROOT, TINY, compose_config
from warm_python import interpreter

from sourcewise.records.reading import Records


def command(
    script: str, *arguments: str, timeout: float = 240, python: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command as a user would, without their W&B login; a warning is an error. python: null for a warm one."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    return subprocess.run(
        [python or interpreter(), str(ROOT / script), *arguments],
        env={**clean, "OMP_NUM_THREADS": "1", "NETRC": os.devnull, "PYTHONWARNINGS": "error", **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of a tiny sweep that the command made."""
    runs = tmp_path_factory.mktemp("sweep") / "runs"
    done = command("train.py", "-m", "subset.seed=range(0,12)", f"runs_dir={runs}", *TINY, python=sys.executable)
    assert (done.returncode, "Warning" in done.stderr) == (0, False), done.stderr
    return runs


def test_sweep_then_estimate(sweep: Path, tmp_path: Path) -> None:
    assert len(list(Records(str(sweep), progress=False))) == 12
    out = tmp_path / "out"
    done = command("estimate.py", f"records={sweep}", f"out={out}", "logger.mode=offline", python=sys.executable)
    assert (done.returncode, "Warning" in done.stderr) == (0, False), done.stderr
    assert str(out / "report.html") in done.stdout
    assert "Helped most by" in done.stdout
    summary = json.loads((out / "summary.json").read_text())
    assert summary["models"] == 12
    assert summary["groups"] == 36
    with xr.open_dataset(out / "digits" / "influences.nc") as dataset:
        assert dict(dataset.sizes) == {"example": 849, "class": 10, "group": 36}
        assert np.isfinite(dataset["influence_class"].values).mean() > 0.9
    page = (out / "report.html").read_text()
    assert "<html" in page[:200]
    assert 'alt="digits example ' in page


@pytest.mark.slow
def test_no_secret_of_the_environment_is_anywhere(sweep: Path, tmp_path: Path) -> None:
    """Neither in records, logs, W&B's files and the report, nor on the screen; a failed run and a failed upload included."""
    secret = "local-" + "5ec2e7" * 7
    names = ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "DATABASE_PASSWORD", "MY_KEY")
    planted = {
        **dict.fromkeys(names, secret),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "WANDB_ERROR_REPORTING": "false",
        "PYTHONWARNINGS": "default",
    }
    offline = {**planted, "WANDB_MODE": "offline"}
    server = {"WANDB_BASE_URL": "http://127.0.0.1:9"}  # where nobody listens
    tiny, runs = TINY[:-1], f"runs_dir={tmp_path / 'runs'}"
    place = {"WANDB_DIR": str(tmp_path), "TMPDIR": str(tmp_path)}
    done = [
        command("train.py", "-v", "-m", "subset.seed=0,1", *tiny, runs, **offline, **place),
        command("train.py", "subset.seed=2", *tiny, runs, "logger.init_timeout=1", **planted, **server, **place),
        command("train.py", "-v", "source.pretraining.lr=1e30", *tiny, runs, **offline, **place),
        command("estimate.py", f"records={sweep}", f"out={tmp_path / 'out'}", **offline, **place),
        command("estimate.py", "records=wandb:a/b", **planted, **server, **place),
    ]
    assert [item.returncode for item in done] == [0, 0, 1, 0, 2], [item.stderr for item in done]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"record.safetensors", "report.html"} < {path.name for path in files}
    for where, content in [(path, path.read_bytes()) for path in files] + [
        (item.args, (item.stdout + item.stderr).encode()) for item in done
    ]:
        assert secret.encode() not in content, where


def test_a_finished_sweep_is_not_done_again(sweep: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in sweep.rglob("record.safetensors")}
    done = command("train.py", "-m", "subset.seed=range(0,12)", f"runs_dir={sweep}", *TINY)
    assert done.returncode == 0
    assert "12 of 12 runs are done already" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in sweep.rglob("record.safetensors")} == before


def test_one_run_is_one_of_the_sweep_s(sweep: Path, tmp_path: Path) -> None:
    done = command("train.py", "subset.seed=4", f"runs_dir={tmp_path}", *TINY)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (alone,) = Records(str(tmp_path), progress=False)
    (there,) = [item for item in Records(str(sweep), progress=False) if item.header.subset_seed == 4]
    assert alone.header.run == there.header.run
    assert alone.header.study == there.header.study
    assert np.array_equal(alone.targets["digits"].margin, there.targets["digits"].margin)
    assert alone.header.metrics == there.header.metrics


@pytest.mark.slow
def test_two_processes_cover_every_example_once(tmp_path: Path) -> None:
    ddp = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.sync_batchnorm=false")
    done = command("train.py", *TINY, *ddp, f"runs_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("target/digits/accuracy") == 1
    (item,) = Records(str(tmp_path), progress=False)
    ids = item.targets["digits"].ids
    assert len(ids) == 849
    assert len(np.unique(ids)) == 849


def test_runs_are_tracked_offline_unless_logged_in(tmp_path: Path) -> None:
    tiny = [override for override in TINY if override != "logger=none"]
    done = command("train.py", *tiny, f"runs_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    (copy,) = (tmp_path / "wandb").glob("offline-run-*/files/record.safetensors")
    (path,) = tmp_path.glob("*/*/record.safetensors")
    assert copy.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("train.py", ("sead=1",), "sead"),
        ("train.py", ("+sead=1",), "sead: there is no such setting; did you mean seed?"),
        ("train.py", ("trainer.gpus=1",), "trainer.gpus"),
        ("train.py", ("+trainer.gpus=1",), "gpus"),
        ("train.py", ("source=imagenet21k",), "source=imagenet21k"),
        ("train.py", ("source.name=???",), "source.name"),
        ("train.py", ("subset=listed", "subset.drop=[a]"), "did you mean A?"),
        ("train.py", ("subset.fraction=2",), "subset.fraction=2"),
        ("train.py", ("logger.mode=of",), "logger.mode=of"),
        ("train.py", ("trainer.devices=0",), "trainer.devices=0: input should be greater than 0"),
        ("train.py", ("~trainer",), "trainer: this must be given"),
        ("train.py", ("~subset.seed",), "subset.seed: this must be given"),
        (
            "train.py",
            ("study=it's",),
            """study=it's: this cannot be read; as text, its value needs quotes: 'study="it""",
        ),
        ("train.py", ("experiment=null",), "must be a string or a list"),
        ("train.py", ("-m", "subset.seed=range(0,0)"), "the sweep is empty: one of its ranges or lists has no values"),
        ("train.py", ("-m", "hydra.launcher.timeout=soon"), "hydra.launcher.timeout=soon: input should be a valid"),
        ("estimate.py", ("records=.", "filters.sweep=a"), "filters.sweep: only W&B knows this"),
        ("estimate.py", (), "records"),
        ("estimate.py", ("records=/nowhere",), "records=/nowhere: there is no such folder"),
        ("estimate.py", ("records=.", "outputs=p"), "outputs=p"),
        ("estimate.py", ("records=.", "fdr=2"), "fdr=2: input should be less than 1"),
    ],
)
def test_a_user_s_error_is_one_line_and_status_2(
    script: str, arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    place = (f"runs_dir={tmp_path}",) if script == "train.py" else ()
    done = command(script, *arguments, *place)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("record.safetensors"))


def test_a_failed_run_is_one_line_and_status_1(tmp_path: Path) -> None:
    done = command("train.py", *TINY, "source.pretraining.lr=1e30", f"runs_dir={tmp_path}")
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "lower the learning rate" in done.stderr


def test_verbose_shows_what_libraries_log_and_where_an_error_came_from(tmp_path: Path) -> None:
    done = command("train.py", "-v", *TINY, "source.pretraining.lr=1e30", f"runs_dir={tmp_path}", PYTHONWARNINGS="")
    assert done.returncode == 1
    assert "GPU available" in done.stderr
    assert "Traceback" in done.stderr
    assert "lower the learning rate" in done.stderr


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("train.py model=s", {"model=small_cnn"}),
        ("estimate.py filters.s", {"filters.sweep=", "filters.state="}),
    ],
)
def test_shell_completion_answers(line: str, answer: set[str]) -> None:
    line = f"python {line}"
    done = command(line.split()[1], "-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)))
    assert (set(done.stdout.split()), done.stderr) == (answer, "")


@pytest.mark.parametrize("name", ["train", "estimate"])
def test_an_installed_command_is_called_by_its_name(name: str, tmp_path: Path) -> None:
    program = tmp_path / f"sourcewise-{name}"
    program.write_text(f"#!{sys.executable}\nfrom sourcewise.commands.{name} import main\nmain()\n")
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([program.name, "nothing=1"], env=environment, capture_output=True, text=True)
    assert done.stderr.startswith(f"sourcewise-{name}: nothing: there is no such setting")
    bash = f"""eval "$(sourcewise-{name} -sc install=bash)"; COMP_LINE="sourcewise-{name} logger=n"
        COMP_POINT=${{#COMP_LINE}} COMP_CWORD=1; hydra_bash_completion; echo "$(complete -p {program.name}) $COMPREPLY" """
    done = subprocess.run(["bash", "-c", bash], env=environment, capture_output=True, text=True)
    assert f"hydra_bash_completion {program.name} logger=none" in done.stdout, done.stderr


def test_a_reader_that_has_had_enough_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} {ROOT / 'estimate.py'} --help | head -c 10",
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (len(done.stdout), done.stderr) == (10, "")


@pytest.mark.parametrize("script", ["train.py", "estimate.py"])
def test_help_needs_nothing_heavy(script: str) -> None:
    code = (
        f"import sys, runpy; sys.argv = [{script!r}, '--help']\n"
        f"try: runpy.run_path({str(ROOT / script)!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'pytorch_lightning', 'wandb', 'pandas', 'scipy', 'xarray', 'plotly'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert script in done.stdout
    if script == "estimate.py":
        assert "Configuration groups" not in done.stdout  # of train.py
        settings = re.findall(r"^([a-z_]+)(?:=|\.<)", done.stdout, re.MULTILINE)
        assert set(settings) == set(compose_config("records=x", name="estimate"))
        assert len(settings) == len(set(settings))


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train.py", "estimate.py"])
def test_the_version_is_sourcewise_s(script: str) -> None:
    done = command(script, "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"sourcewise {version('sourcewise')}\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("multirun", [[], ["-m"]])
def test_a_group_s_name_that_looks_like_a_number_is_taken_as_typed(multirun: list[str], tmp_path: Path) -> None:
    done = command("train.py", *multirun, "subset=listed", "subset.drop=[1_1]", f"runs_dir={tmp_path}", *TINY)
    assert done.returncode in (1, 2)
    assert "subset.drop: no group is called '1_1'" in done.stderr
