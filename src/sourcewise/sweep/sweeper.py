"""The sweeper: Hydra's basic one, without composing every job an extra time and without files of its own."""

import shlex
from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from sourcewise.core.overrides import names_subset
from sourcewise.designs import find_design

SUBSET = "subset"


class SourcewiseSweeper(BasicSweeper):
    """All combinations of the swept values, in one batch: the launcher sees the whole sweep, and composes it.

    Args:
        params: ranges of an experiment, by setting.
        also: overrides of further sweeps of an experiment, a line each. They go before its ranges, unless the command
            line says itself which subsets or seeds are trained.
    """

    def __init__(self, params: dict[str, str] | None = None, also: Sequence[str] | None = None) -> None:
        super().__init__(max_batch_size=None, params=params)
        self._also = also or ()

    def sweep(self, arguments: list[str]) -> Any:
        """Launch every job of the sweep."""
        assert self.hydra_context is not None
        assert self.launcher is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        line = parser.parse_overrides(arguments)
        ranges = [item for item in parser.parse_overrides(self._parse_config()) if self._applies(item, line)]
        keys = [item.key_or_group for item in line]
        also = [] if names_subset(keys) else self._also
        if "models" in keys and not names_subset(keys):  # kept models bring their subsets and seeds
            ranges, also = [item for item in ranges if not names_subset([item.key_or_group])], []
        sweeps = [*([*parser.parse_overrides(shlex.split(more)), *line] for more in also), [*ranges, *line]]
        batch = [job for sweep in sweeps for jobs in self.split_arguments(sweep, None) for job in jobs]
        return [self.launcher.launch(batch, initial_job_idx=0)]

    def _applies(self, sweep_range: Override, line: Sequence[Override]) -> bool:
        """Return whether an experiment's range over a setting is used with the overrides of the command line.

        A range over `subset.*` belongs to the design of the experiment. With another design on the command line it is
        used if that one is random and has such a setting, and otherwise left out.
        """
        group, _, setting = sweep_range.key_or_group.partition(".")
        chosen = any(item.key_or_group in (SUBSET, f"{SUBSET}.design") for item in line)
        if group != SUBSET or not chosen or self.config is None:
            return True
        subset = self.config.subset
        if subset.design == self._experiments_design(line):
            return True
        return find_design(subset.design).is_random and setting in subset

    def _experiments_design(self, line: Sequence[Override]) -> str:
        """Return the design of the experiment, without the other choices of the command line."""
        assert self.hydra_context is not None
        assert self.config is not None
        experiment = [str(item.input_line) for item in line if item.key_or_group == "experiment"]
        config = self.hydra_context.config_loader.load_sweep_config(self.config, experiment)
        return str(config.subset.design)
