"""The plugins for Hydra, which looks for them in this namespace and takes only classes that are defined here."""

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from sourcewise.commands import sweeper
from sourcewise.sweep import launcher, slurm

# The transfer settings of a target, empty at first, and open: which of them there are depends on conf/transfer, so that
# a YAML file, in which Hydra takes only keys that are there, cannot say. Those that do not exist are an error later on.
ConfigStore.instance().store(
    group="target",
    name="base_transfer",
    node=OmegaConf.create({"transfer": OmegaConf.create({}, flags={"struct": False})}),
)


class LocalLauncher(launcher.LocalLauncher):
    """See `sourcewise.sweep.launcher`."""


class SlurmLauncher(slurm.SlurmLauncher):
    """See `sourcewise.sweep.slurm`."""


class SourcewiseSweeper(sweeper.SourcewiseSweeper):
    """See `sourcewise.commands.sweeper`."""
