"""Are wrong labels found? Average precision against the number of models, on 45 of 898 source digits mislabelled.

    # 200 models; about 6 minutes on two cores; then seconds
    python train.py --config-dir benchmarks/conf -m experiment=planted_mislabels logger=none
    python benchmarks/mislabels.py

Ranked by disbelief (1 minus the mean probability of the label by models that did not see the example), by memorisation
(in-sample minus held-out, arXiv 2008.03703), and by harm to the target (minus the overall influence). Flagged: by the
tests of `acting.review` at a false discovery rate of 5%.
"""

from __future__ import annotations

import argparse

import numpy as np
import planted
from sklearn.metrics import average_precision_score

from sourcewise.acting.review import disagreement_qvalues
from sourcewise.estimation.collapse import collapse
from sourcewise.estimation.estimators import difference
from sourcewise.records.reading import Records
from sourcewise.study.outputs import LabelAgreement

COUNTS = (25, 50, 100, 200)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", default="outputs/planted_mislabels/runs")
    items = [item for item in Records(parser.parse_args().records) if item.header.is_random]
    wrong = planted.mislabels().columns["planted"] >= 0
    agreement, masks, outputs = LabelAgreement(len(wrong)), [], []
    print("models  disbelief  memorisation  harm   flagged  right (of 45)")
    for count, item in enumerate(items, 1):
        assert item.source is not None
        agreement.add(item.mask, item.source)
        masks.append(item.mask)
        outputs.append(item.targets["digits"].prob.mean(dtype=np.float64))
        if count in COUNTS:
            held_out, in_sample = agreement.probabilities()
            harm = -difference(collapse(np.array(masks), np.array(outputs)[:, None]).moments()).influence[0]
            scores = [average_precision_score(wrong, score) for score in (1 - held_out, in_sample - held_out, harm)]
            flagged = disagreement_qvalues(agreement) <= 0.05
            shown = (f"{scores[0]:>10.3f} {scores[1]:>13.3f} {scores[2]:>6.3f}", flagged.sum(), (flagged & wrong).sum())
            print(f"{count:>6} {shown[0]} {shown[1]:>8} {shown[2]:>6}")


if __name__ == "__main__":
    main()
