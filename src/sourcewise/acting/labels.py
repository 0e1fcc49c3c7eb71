"""Labels of source examples that look wrong: models that did not train on the example do not predict them."""

from __future__ import annotations

import xarray as xr
from scipy.stats import binom

from sourcewise.acting.review_rows import LabelRow, known, most_suspicious
from sourcewise.estimation.arrays import Array
from sourcewise.estimation.inference import qvalues
from sourcewise.study.agreement import LabelAgreement


def find_dubious_labels(agreement: LabelAgreement, name: str, influences: xr.Dataset, fdr: float) -> list[LabelRow]:
    """Find source examples whose label models do not predict, those with the lowest held-out probability first.

    Args:
        agreement: of the models with the labels.
        name: target whose overall influences are shown beside.
        influences: on that target.
        fdr: q-value up to which a label is flagged.
    """
    held_out, in_sample = agreement.probabilities()
    q = disagreement_qvalues(agreement)
    influence, stderr = (influences[f"{key}_overall"].values for key in ("influence", "stderr"))
    return [
        LabelRow(
            target=name,
            source=i,
            qvalue=known(q[i]),
            flagged=bool(q[i] <= fdr),
            held_out=known(held_out[i]),
            in_sample=known(in_sample[i]),
            influence=known(influence[i]),
            stderr=known(stderr[i]),
        )
        for i in most_suspicious(held_out, q <= fdr)
    ]


def disagreement_qvalues(agreement: LabelAgreement) -> Array:
    """Return q-values, float[examples], of a one-sided sign test of each label.

    The null hypothesis: half of the models that did not see the example predict its label, or more. Given the source,
    models of random subsets are independent of each other.
    """
    return qvalues(binom.cdf(agreement.correct[0], agreement.models[0], 0.5))
