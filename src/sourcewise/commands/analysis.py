"""What analyses make of influences: the step from estimates to a summary that the command and a notebook share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sourcewise.acting.counterfactuals import compare_all
from sourcewise.acting.review import review
from sourcewise.report.summary import Summary, summarise
from sourcewise.study import comparison

if TYPE_CHECKING:
    import xarray as xr

    from sourcewise.acting.curation import Curation
    from sourcewise.acting.search.account import SearchAccount
    from sourcewise.data import ImageDataset
    from sourcewise.study.collect import LeftOut, Study
    from sourcewise.study.influences import Estimated
    from sourcewise.study.priors import Priors


def analyse(
    study: Study,
    estimated: Mapping[str, Estimated],
    left_out: Sequence[LeftOut],
    fdr: float,
    looks: int = 1,
    *,
    priors: Priors,
    others: Mapping[str, Sequence[xr.Dataset]],
    images: Mapping[str, ImageDataset] | None = None,
    search: SearchAccount | None = None,
    curation: Curation | None = None,
) -> Summary:
    """Return the summary of influences, by target, with all that the records and other studies say of them.

    fdr: false discovery rate, over `looks` looks. priors: those that the estimates took. others: estimates of other
    studies, by their places. images: as in `find_images`; None: none. search, curation: if there is one.

    Raises SourcewiseError as `comparison.compare` does.
    """
    datasets = {name: item.dataset for name, item in estimated.items()}
    slopes = {name: item.slopes for name, item in estimated.items()}
    return summarise(
        study,
        estimated,
        left_out,
        fdr,
        looks,
        counterfactuals=compare_all(study.counterfactual_runs, study.group_names, slopes),
        review=review(datasets, study.label_agreement, images or {}, fdr / looks),
        search=search,
        curation=curation,
        priors=priors,
        compared={
            name: comparison.compare(dataset, others, fdr, comparison.compare_transfers(study, name, fdr))
            for name, dataset in datasets.items()
        },
    )
