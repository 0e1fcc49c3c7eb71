"""The sweeper: an ordinary sweep, or with the setting `search` a search."""

from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from sourcewise.core.errors import SourcewiseError
from sourcewise.core.overrides import override_key
from sourcewise.sweep import sweeper
from sourcewise.sweep.composition import Composer
from sourcewise.sweep.launcher import LocalLauncher


class SourcewiseSweeper(sweeper.SourcewiseSweeper):
    """A sweeper that searches for a better source where the setting `search` says so."""

    def sweep(self, arguments: list[str]) -> Any:
        """Launch every job of the sweep, or search. Raises SourcewiseError for a search that also sweeps."""
        assert self.hydra_context is not None
        assert self.config is not None
        loader = self.hydra_context.config_loader
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(arguments)
        swept = [item for item in parsed if item.is_sweep_override()]
        line = [str(item.input_line) for item in parsed if item not in swept]
        if not loader.load_sweep_config(self.config, line).get("search"):
            return super().sweep(arguments)
        if swept:
            raise SourcewiseError(
                f"{swept[0].input_line}: a search is one study, and chooses subsets and seeds itself; give one value"
            )
        if not isinstance(self.launcher, LocalLauncher):
            raise SourcewiseError("search: it needs hydra/launcher=local or hydra/launcher=slurm")
        from sourcewise.commands.search import search  # heavy: --help and ordinary sweeps need none of it

        config = Composer(loader, self.config)(line)
        search(self.launcher, [item for item in line if override_key(item).partition(".")[0] != "search"], config)
        return []
