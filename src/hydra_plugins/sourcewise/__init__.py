"""What Hydra finds of sourcewise: it looks for plugins in this namespace, and takes only classes defined here."""

from sourcewise.sweep import launcher, slurm, sweeper


class LocalLauncher(launcher.LocalLauncher):
    """See `sourcewise.sweep.launcher`."""


class SlurmLauncher(slurm.SlurmLauncher):
    """See `sourcewise.sweep.slurm`."""


class SourcewiseSweeper(sweeper.SourcewiseSweeper):
    """See `sourcewise.sweep.sweeper`."""
