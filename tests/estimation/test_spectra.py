import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sourcewise.estimation import spectra
from sourcewise.estimation.arrays import PackedMasks


def gram(seed: int, groups: int = 12, models: int = 30) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(models, groups))
    return x.T @ x


def test_a_matrix_is_decomposed_once_and_the_last_ones_are_kept(monkeypatch):
    calls, decompose = [], spectra._decompose
    monkeypatch.setattr(spectra, "_decompose", lambda *given: calls.append(given) or decompose(*given))
    monkeypatch.setattr(spectra, "_memo", spectra.Memo())
    monkeypatch.setattr(spectra, "KEPT_BYTES", 2 * (gram(0).nbytes + gram(0)[0].nbytes))
    for seed in (0, 1, 0, 2, 0, 1):  # 2 displaces 1, which was used longest ago
        spectrum = spectra.eigen(gram(seed), 30)
        restored = (spectrum.vectors * spectrum.values) @ spectrum.vectors.T
        np.testing.assert_allclose(restored, gram(seed), atol=1e-9)
    assert [next(seed for seed in range(3) if (matrix == gram(seed)).all()) for matrix, _ in calls] == [0, 1, 2, 1]


def test_the_number_of_models_is_part_of_the_key_and_results_cannot_be_changed():
    rank_deficient = gram(3, groups=40, models=5)
    assert spectra.eigen(rank_deficient, 5).vectors.shape == (40, 5)
    spectrum = spectra.eigen(rank_deficient, 30)
    assert spectrum.vectors.shape == (40, 40)
    with pytest.raises(ValueError, match="read-only"):
        spectrum.values[0] += 1


def test_what_follows_from_a_spectrum_is_made_once_for_each_thing_beside_it():
    spectrum, made = spectra.eigen(gram(4), 30), []

    def total(beside: float) -> float:
        (result,) = spectrum.derived(np.array([beside]), lambda: made.append(beside) or (spectrum.values + beside,))
        return result.sum()

    assert total(1.0) != total(2.0)
    assert [total(1.0), total(2.0)] == [spectrum.values.sum() + 12, spectrum.values.sum() + 24]
    assert made == [1.0, 2.0]


@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 1000))
def test_gram_counts_the_masks_that_keep_both_groups(groups, models, seed):
    masks = np.random.default_rng(seed).random((models, groups)) < 0.5
    np.testing.assert_array_equal(spectra.gram(PackedMasks.pack(masks)), masks.T.astype(float) @ masks)
