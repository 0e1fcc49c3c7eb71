"""What an estimate says when it cannot be made."""

from pathlib import Path

import pytest
from conftest import compose_config

from sourcewise.commands.estimate import estimate
from sourcewise.core.errors import SourcewiseError
from sourcewise.records import record
from tests.fake_records import make


def test_too_few_records_say_what_was_left_out(tmp_path: Path) -> None:
    """Fifty copies of one run are one record."""
    for copy in range(50):
        record.write(make(0), tmp_path / f"runs/study/copy-{copy:02d}/record.safetensors")
    config = compose_config(f"records={tmp_path / 'runs'}", f"out={tmp_path / 'out'}", "logger=none", name="estimate")
    expected = r"1 record: an estimate needs at least 2.*; 49 could not be used, the first: .*copy-01.*the same run as"
    with pytest.raises(SourcewiseError, match=expected):
        estimate(config)
