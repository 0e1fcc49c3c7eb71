"""Fixed and full transfer in one run: outputs of both, those of the first as in a run of its own."""

import numpy as np
from conftest import Compose

from sourcewise.commands import train
from sourcewise.core import names
from sourcewise.records import record
from sourcewise.sweep.composition import side_by_side


def test_the_first_transfer_is_that_of_a_run_of_its_own(tiny: Compose) -> None:
    alone, full = tiny(), tiny("transfer=full", "transfer.epochs=1")
    both = side_by_side({"fixed": alone, "full": full})
    for config in (alone, both):
        train.train(config)
    first, second = (record.read(names.run_dir(config) / names.RECORD) for config in (alone, both))
    assert names.study_name(both).startswith("characters-digits+digits-full-small_cnn-fixed+full-")
    assert list(second.targets) == ["digits", "digits-full"]
    np.testing.assert_array_equal(second.targets["digits"].margin, first.targets["digits"].margin)
    fixed, fine_tuned = second.targets.values()
    np.testing.assert_array_equal(fine_tuned.ids, fixed.ids)
    assert (fine_tuned.margin != fixed.margin).mean() > 0.9
    assert second.header.fingerprints["digits-full/test"] == second.header.fingerprints["digits/test"]
