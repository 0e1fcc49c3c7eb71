"""What a notebook or a terminal shows of loaded records and of influences."""

from dataclasses import replace
from pathlib import Path

import fake_records as records
import numpy as np
import pytest
from fake_reports import EVIL, Page
from planted_models import models, planted_effects

from sourcewise.commands.notebook import Loaded, load, save_figure
from sourcewise.core.errors import SourcewiseError
from sourcewise.records import record
from sourcewise.records.reading import LeftOut
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
    lines = repr(Loaded(study, []).estimate(estimator="ridge")).splitlines()
    assert lines[0].startswith("pets: Influences at class level are reliable")
    assert len(lines) == 7
    assert lines[2].startswith("  g7: +")
    assert " ± " in lines[2]
    assert "q = " in lines[2]


def test_jupyter_shows_small_tables_with_the_verdict() -> None:
    study = collect(models(80, planted_effects()))
    target = replace(study.targets["pets"], class_names=(EVIL, *study.targets["pets"].class_names[1:]))
    loaded = Loaded(replace(study, targets={EVIL: target}), [LeftOut("a", "b")])
    page = Page(loaded._repr_html_())
    assert "80 records of" in page.text
    assert "1 left out" in page.text
    assert page.text.endswith(f"Target Examples Classes Mean score {EVIL} 120 3 accuracy {np.mean(target.scores):.3g}")
    influences = Loaded(study, []).estimate(estimator="ridge")
    found = Page(influences._repr_html_())
    assert found.text.startswith("pets: Influences at class level are reliable")
    assert "Level Estimator LDS Split-half Significant example ridge" in found.text
    q = influences.influences["qvalue_class"].values
    assert f"{(q <= 0.05).sum()} of {q.size}" in found.text
    assert not {tag for tag, _ in page.elements + found.elements} & {"script", "b>"}


def test_figures_for_a_paper_are_files_of_a_known_kind(tmp_path: Path) -> None:
    plot = Loaded(collect(models(40, planted_effects())), []).estimate(estimator="ridge").plot
    save_figure(plot.overall(), tmp_path / "figures/bars.pdf")
    assert (tmp_path / "figures/bars.pdf").read_bytes().startswith(b"%PDF")
    for name, columns in (("bars.jpg", 1), ("bars", 1), ("bars.pdf", 3)):
        with pytest.raises(SourcewiseError, match=f"{name}: figures are .pdf, .svg or .png"):
            save_figure(plot.overall(), tmp_path / name, columns)
    with pytest.raises(SourcewiseError, match="no figure of between"):
        plot.between()


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
