"""A sweep's configs, composed quickly, equal what Hydra composes for each job alone."""

import contextlib
import copy
import functools
import json
import re
from pathlib import Path

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import open_dict
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from sourcewise.core.errors import SourcewiseError
from sourcewise.sweep.composition import Composer, chooses_transfers, plain, side_by_side

CONF = Path(__file__).parents[2] / "conf"

EXTRA = """
defaults: [train, _self_]
needed: 5
optional: null
list: [1, 2, {a: 3}]
copy: ${needed}
sub: {a: 1, b: "${.a}", c: "${sub}x", d: {e: 1}}
where: ${hydra:job.config_name}
home: ${oc.env:HOME}
"""

SIMPLE = """
defaults: [{source: characters}, {override /hydra/launcher: basic}, _self_]
must: ???
plain: {a: 1, b: {c: 2}}
list: [1, 2]
from_list: ${list}
"""


@pytest.fixture(scope="module")
def loaders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("conf")
    (folder / "extra.yaml").write_text(EXTRA)
    (folder / "simple.yaml").write_text(SIMPLE)
    setup_globals()
    path = create_config_search_path(str(CONF))
    path.prepend("test", f"file://{folder}")
    loader = ConfigLoaderImpl(path)

    @functools.cache
    def load(name):
        master = loader.load_configuration(name, [], RunMode.MULTIRUN)
        return loader, master

    return load


def by_hydra(loader, master, overrides):
    from hydra.core.hydra_config import HydraConfig

    config = loader.load_sweep_config(master, list(overrides))
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    return plain(config)


TRAIN = [
    [],
    ["subset.seed=7"],
    ["subset.seed=7", "seed=3", "runs_dir=/tmp/x"],
    ["runs_dir=elsewhere"],  # logger.dir refers to it
    ["transfer.lr=0.25"],  # every target's transfer refers to it
    ["target.digits.transfer.lr=0.25", "transfer.lr=1"],
    ["transfer=full", "subset.seed=1"],
    ["transfer=full", "transfer.lr=3e-2"],
    ["subset=listed", "subset.drop=[A,B]"],
    ["subset=listed", "subset={keep:[A]}"],
    ["subset={seed:4}", "subset.seed=5"],
    ["subset.seed=5", "subset={seed:4}"],
    ["+extra=1"],
    ["+subset.note='${seed}'", "seed=9"],
    ["++subset.seed=3"],
    ["~source.pretraining.momentum"],
    ["source.pretraining.schedule.peak=null"],
    ["study=${seed}", "seed=4"],
    ["study='a b'"],
    ["study=\\${seed}"],
    ["seed='3'"],
    ["seed=true"],
    ["model=resnet9", "trainer=gpu", "subset.seed=2"],
    ["experiment=demo", "subset.seed=2"],
    ["hydra.job.name=x", "subset.seed=2"],
    ["source=imagenet", "subset.seed=3"],  # whose root is an environment variable's
    ["source=imagenet", "source.root=/x"],
    ["model.width=8", "subset.fraction=0.25", "subset.seed=11"],
]
OTHERS = [
    ("extra", ["subset.seed=1"]),
    ("extra", ["needed=6"]),
    ("extra", ["sub.a=2"]),
    ("extra", ["sub.d.e=2", "list=[4]"]),
    ("simple", ["must=1"]),
    ("simple", ["must=1", "plain.a=2"]),
    ("simple", ["must=1", "plain.b.c=3", "plain.a=x"]),
    ("simple", ["must=1", "plain.b=3"]),
    ("simple", ["must=1", "list=[5]"]),
    ("simple", ["must=1", "list.0=5"]),
    ("simple", ["must='${plain.a}'", "plain.a=3"]),
    ("simple", ["must='${plain.${plain.b.c}}'", "plain.b.c=a"]),
]


@pytest.mark.parametrize(("name", "overrides"), [*(("train", item) for item in TRAIN), *OTHERS])
def test_equal_to_full_composition(loaders, name, overrides):
    loader, master = loaders(name)
    composer = Composer(loader, master)
    for digit in "89":  # jobs that differ in values only: what is remembered of them must not show
        with contextlib.suppress(OmegaConfBaseException, HydraException):
            composer([re.sub(r"=\d+$", f"={digit}", override) for override in overrides])
    try:
        expected = by_hydra(loader, master, overrides)
    except OmegaConfBaseException:
        with pytest.raises(OmegaConfBaseException):
            composer(overrides)
        return
    for _ in range(2):
        config = composer(overrides)
        assert config == expected
        assert json.dumps(config) == json.dumps(expected)  # types and order too


def test_jobs_do_not_leak_into_each_other(loaders):
    composer = Composer(*loaders("train"))
    alone = copy.deepcopy(composer(["subset.seed=1"]))
    composer(["subset.seed=2", "model.width=8"])
    composer(["subset.seed=2", "transfer.lr=8"])
    assert composer(["subset.seed=1"]) == alone
    composer(["subset.seed=1"])["subset"] = None  # as the launcher does, which settles it
    composer(["subset.seed=5"])["subset"] = None
    assert composer(["subset.seed=1"]) == alone


def test_hydra_composes_once_per_choice_of_groups(loaders, monkeypatch):
    loader, master = loaders("train")
    calls = []
    real = loader.load_sweep_config
    monkeypatch.setattr(loader, "load_sweep_config", lambda *args: calls.append(args) or real(*args))
    composer = Composer(loader, master)
    for transfer in ("fixed", "full"):
        for seed in range(50):
            config = composer([f"transfer={transfer}", f"subset.seed={seed}", "model.width=8"])
            assert config["subset"]["seed"] == seed
    assert len(calls) == 5  # each once more with another seed, and once with another transfer


@pytest.mark.parametrize(
    ("overrides", "error", "text"),
    [
        (["no.such=1"], HydraException, "no.such"),
        (["subset.sed=1"], HydraException, "subset.sed"),
        (["subset=no_such"], HydraException, "no_such"),
        (["subset@elsewhere=random"], HydraException, "elsewhere"),
    ],
)
def test_errors_name_what_is_wrong(loaders, overrides, error, text):
    with pytest.raises(error, match=text):
        Composer(*loaders("train"))(overrides)


def test_a_missing_value_is_named(loaders):
    with pytest.raises(MissingMandatoryValue, match="must"):
        Composer(*loaders("simple"))(["plain.a=3"])
    with pytest.raises(MissingMandatoryValue, match="must"):
        Composer(*loaders("simple"))(["plain.a=3", "must=???"])


def test_listed_transfers_stand_side_by_side(loaders):
    loader, master = loaders("train")
    compose = Composer(loader, master)
    line = ["target=[digits,pets]", "target.digits.transfer.epochs=3", "subset.seed=4"]
    fixed, full = (compose([*line, f"transfer={name}"])["target"] for name in ("fixed", "full"))
    config = compose([line[0], "transfer=[fixed,full]", *line[1:]])
    assert config["target"] == {**fixed, "digits-full": full["digits"], "pets-full": full["pets"]}
    assert {key: value for key, value in config.items() if key != "target"} == {
        key: value for key, value in compose([*line, "transfer=fixed"]).items() if key != "target"
    }
    assert chooses_transfers(["seed=1", "transfer=[full,fixed]"])
    assert not any(map(chooses_transfers, ([], ["transfer=full"], ["transfer=[full]"], ["transfer.epochs=[1,2]"])))
    with pytest.raises(SourcewiseError, match=r"^transfer=\[full,full\]: one is there twice$"):
        compose(["transfer=[full,full]"])


def test_a_target_that_chooses_its_transfer_itself_is_there_once():
    config = {"target": {"a": {"transfer": 1}, "b": {"transfer": 2}}, "transfer": 1}
    other = {"target": {"a": {"transfer": 3}, "b": {"transfer": 2}}, "transfer": 3}
    both = side_by_side({"fixed": config, "full": other})
    assert both == {"target": {"a": {"transfer": 1}, "b": {"transfer": 2}, "a-full": {"transfer": 3}}, "transfer": 1}
    with pytest.raises(SourcewiseError, match="there is a target a-full already"):
        side_by_side({"fixed": both, "full": other | {"target": {"a": {"transfer": 3}, "a-full": {}, "b": {}}}})
