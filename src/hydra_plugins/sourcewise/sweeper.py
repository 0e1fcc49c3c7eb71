"""Hydra's basic sweeper, without composing every job an extra time and without files of its own."""

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from hydra_plugins.sourcewise.composition import Composer


class SourcewiseSweeper(BasicSweeper):
    """All combinations of the swept values, in one batch, so that the launcher sees the whole sweep."""

    def __init__(self, params: dict[str, str] | None = None) -> None:
        super().__init__(max_batch_size=None, params=params)

    def sweep(self, arguments: list[str]) -> Any:
        """Launch every job of the sweep. The first error in any job's overrides ends it before anything has started."""
        assert self.hydra_context is not None
        assert self.launcher is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        (batch,) = self.split_arguments(overrides, None)
        self.validate_batch_is_legal(batch)
        return [self.launcher.launch(batch, initial_job_idx=0)]

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Compose every job quickly. A launcher that does so itself before it starts any says `composes = True`."""
        if getattr(self.launcher, "composes", False):
            return
        assert self.hydra_context is not None
        assert self.config is not None
        composer = Composer(self.hydra_context.config_loader, self.config)
        for overrides in batch:
            composer(overrides)
