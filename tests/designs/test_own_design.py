"""A design of the user's, named by its dotted path: runs, sweeps, names, and what a record of it counts as."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, Compose

from sourcewise.commands import train
from sourcewise.core import names
from sourcewise.core.errors import SourcewiseError
from sourcewise.designs import draw, recorded_design, resolve
from sourcewise.records import record
from tests.commands.test_commands import command

MODULE = '''
import numpy as np
from sourcewise.designs import Design

def draw(groups, size: int, seed: int):
    """Keep every other block of `size` groups; an odd seed keeps the others."""
    return np.arange(len(groups)) // size % 2 == seed % 2

def resolve(subset):
    return {**subset, "size": {"small": 2}.get(subset["size"], subset["size"])}

blocks = Design(draw, is_random=True)
chosen = Design(draw)
named = Design(lambda groups, size, seed=0: draw(groups, size, seed), resolve=resolve)
twins = Design(draw, is_random=True, replica=lambda subset: f"/twin/{subset['seed']}")
nothing = Design(lambda groups: np.zeros(len(groups), bool))
numbers = Design(lambda groups: np.arange(len(groups)))
function = draw
anything = Design(lambda groups, **settings: np.ones(len(groups), bool))
'''


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the user's module, which Python can import."""
    (tmp_path / "their_designs.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "their_designs", raising=False)
    return tmp_path


def subset(design: str, **settings: Any) -> dict[str, Any]:
    return {"design": f"their_designs.{design}", **settings}


def test_it_draws_and_its_settings_are_checked_like_ours() -> None:
    assert draw([*"abcdef"], subset("blocks", size=2, seed=1)).tolist() == [False, False, True, True, False, False]
    for settings, message in (
        ({"seed": 1}, r"^subset.size: this must be given$"),
        ({"seed": 1, "size": 1.5}, r"^subset.size=1.5: input should be a valid integer"),
        ({"seed": 1, "sise": 1}, r"^subset.sise: there is no such setting; did you mean size\?$"),
        ({"seed": 1, "ranking": "a.csv"}, r"^subset.ranking: the design their_designs.blocks has no .*, only ranked;"),
    ):
        with pytest.raises(SourcewiseError, match=message):
            resolve(subset("blocks", **settings))


def test_it_can_resolve_its_settings() -> None:
    resolved = resolve(subset("named", size="small"))
    assert resolved == subset("named", size=2)
    assert np.array_equal(draw([*"abcd"], subset("named", size="small")), draw([*"abcd"], resolved))


@pytest.mark.parametrize(
    ("design", "message"),
    [
        ("their_designs.nothing", r"it must return bool\[3\].* with 0 kept$"),
        ("their_designs.numbers", r"it must return bool\[3\].*; it returned int64\[3\]"),
        ("their_designs.function", "this is no sourcewise.designs.Design"),
        ("their_designs.missing", "there is no such design"),
        ("no_such_module.blocks", "there is no such design"),
        (["random"], "there is no such design"),
        (None, "there is no such design"),
    ],
)
def test_what_is_no_design_is_one_clear_line(design: object, message: str) -> None:
    settings = {"size": 1, "seed": 0} if design == "their_designs.function" else {}
    with pytest.raises(SourcewiseError, match=f"^subset.design=.*{message}") as caught:
        draw([*"abc"], {"design": design, **settings})
    assert "\n" not in str(caught.value)


def test_a_design_may_take_any_setting() -> None:
    assert resolve(subset("anything", ranking="a.csv")) == subset("anything", ranking="a.csv")


def test_settings_without_a_design_are_told() -> None:
    with pytest.raises(SourcewiseError, match=r"^subset.design: this must be given"):
        resolve({"seed": 3})


def test_a_record_says_whether_the_design_is_random(tiny: Compose) -> None:
    headers = {}
    for design in ("blocks", "chosen"):
        config = tiny(f"subset.design=their_designs.{design}", "~subset.fraction", "+subset.size=2", "subset.seed=1")
        train.train({**config, "subset": resolve(config["subset"])})
        headers[design] = record.read(names.run_dir(config) / names.RECORD).header
        assert headers[design].run.startswith(f"their_designs.{design}-1-seed0-")
    assert (headers["blocks"].is_random, headers["chosen"].is_random) == (True, False)


def test_replicas_of_it_train_differently(tiny: Compose) -> None:
    outputs = []
    for seed in (1, 3):
        overrides = ("subset.design=their_designs.twins", "~subset.fraction", "+subset.size=2", f"subset.seed={seed}")
        config = tiny(*overrides)
        train.train(config)
        outputs.append(record.read(names.run_dir(config) / names.RECORD))
    assert np.array_equal(outputs[0].mask, outputs[1].mask)
    assert outputs[0].targets["digits"].margin.tobytes() != outputs[1].targets["digits"].margin.tobytes()


def test_what_a_record_names_is_never_imported(module: Path) -> None:
    (module / "trap.py").write_text("raise SystemExit('imported')")
    design = recorded_design("trap.design")
    assert not design.is_random
    assert design.replica({"design": "trap.design"}) == design.curve({"design": "trap.design"}) == ""


def test_a_config_of_the_user_s_makes_it_an_option_of_sweeps(module: Path) -> None:
    (module / "configs/subset").mkdir(parents=True)
    (module / "configs/subset/mine.yaml").write_text("design: their_designs.blocks\nsize: 2\nseed: 0\n")
    option = ("--config-dir", str(module / "configs"), "subset=mine", f"runs_dir={module / 'runs'}", *TINY)
    swept = command("train.py", "-m", *option, "subset.seed=range(0,3)", PYTHONPATH=str(module))
    assert swept.returncode == 0, swept.stderr
    runs = {path.parent.name: record.read(path) for path in module.glob(f"runs/*/*/{names.RECORD}")}
    assert sorted(run.rpartition("-")[0] for run in runs) == [f"their_designs.blocks-{seed}-seed0" for seed in range(3)]
    assert all(item.header.is_random for item in runs.values())
    single = command("train.py", *option, "subset.seed=1", PYTHONPATH=str(module))  # done, under the same name
    assert single.returncode == 0, single.stderr
    assert Path(single.stdout.splitlines()[0]).name in runs
    assert len(list(module.glob(f"runs/*/*/{names.RECORD}"))) == 3
