import numpy as np
import pytest

from sourcewise.estimation import spectra


def gram(seed: int, groups: int = 12, models: int = 30) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(models, groups))
    return x.T @ x


def test_a_matrix_is_decomposed_once_and_the_last_ones_are_kept(monkeypatch):
    calls, decompose = [], spectra._decompose
    monkeypatch.setattr(spectra, "_decompose", lambda *given: calls.append(given) or decompose(*given))
    monkeypatch.setattr(spectra, "_kept", type(spectra._kept)())
    monkeypatch.setattr(spectra, "KEPT_BYTES", 2 * gram(0).nbytes)
    for seed in (0, 1, 0, 2, 0, 1):  # 2 displaces 1, which was used longest ago
        values, vectors = spectra.eigen(gram(seed), 30)
        np.testing.assert_allclose((vectors * values) @ vectors.T, gram(seed), atol=1e-9)
    assert [next(seed for seed in range(3) if (matrix == gram(seed)).all()) for matrix, _ in calls] == [0, 1, 2, 1]


def test_the_number_of_models_is_part_of_the_key_and_results_cannot_be_changed():
    rank_deficient = gram(3, groups=40, models=5)
    assert spectra.eigen(rank_deficient, 5)[1].shape == (40, 5)
    values, vectors = spectra.eigen(rank_deficient, 30)
    assert vectors.shape == (40, 40)
    with pytest.raises(ValueError, match="read-only"):
        values += 1
