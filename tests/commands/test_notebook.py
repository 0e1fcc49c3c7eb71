"""What a notebook or a terminal shows of loaded records and of influences."""

from dataclasses import replace
from pathlib import Path

import fake_records as records
import numpy as np
from planted_models import models, planted_effects

from sourcewise.commands.notebook import Influences, load
from sourcewise.records import record
from sourcewise.report.summary import summarise
from sourcewise.study.collect import collect
from sourcewise.study.influences import estimate


def test_loaded_records_are_one_line(tmp_path: Path) -> None:
    records.write_study(tmp_path / "made-up", 4)
    assert repr(load(str(tmp_path / "made-up"))) == "4 records of made-up-0123456789; targets: pets"
    (tmp_path / "made-up" / "broken").mkdir()
    (tmp_path / "made-up" / "broken" / "record.safetensors").write_bytes(b"x")
    assert repr(load(str(tmp_path / "made-up"))).endswith("; 1 left out")


def test_influences_are_a_verdict_and_the_five_strongest_with_errors_and_q() -> None:
    study = collect(models(80, planted_effects()))
    lines = repr(Influences(**vars(estimate(study, "ridge")["pets"]))).splitlines()
    assert lines[0].startswith("pets: Influences at class level are reliable")
    assert len(lines) == 7
    assert lines[2].startswith("  g7: +")
    assert " ± " in lines[2]
    assert "q = " in lines[2]


def test_few_models_and_groups_that_never_vary_are_named_in_notes() -> None:
    study = collect(models(3, planted_effects()))
    notes = " ".join(summarise(study, estimate(study, "difference"), [], 0.05).notes)
    assert "no identifiable influence: g0, g5, g7, g9." in notes
    assert "nothing can be told from noise. Train more." in notes


def test_full_runs_count_as_priors_as_they_do_for_the_command(tmp_path: Path) -> None:
    effects = planted_effects()
    drawn = models(40, effects)
    mapping = np.random.default_rng(0).random((3, 14)).astype(np.float32)
    outputs = replace(drawn[0].targets["pets"], label_mapping=mapping, feature_mapping=mapping**2)
    full = replace(drawn[0], mask=np.ones(14, bool), targets={"pets": outputs})
    full = replace(full, header=records.header(design="full", run="full", subset_seed=None))
    for item in (*drawn, full):
        record.write(item, tmp_path / item.header.run / "record.safetensors")
    loaded = load(str(tmp_path))
    known = loaded.estimate(estimator="hierarchical").checks["class"].prior_weights
    assert set(known or {}) == {"label_mapping", "feature_mapping"}
    assert loaded.estimate(estimator="hierarchical", priors=None).checks["class"].prior_weights is None
