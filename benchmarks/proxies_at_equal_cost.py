"""What a budget buys from two full runs, models of the recipe and models of a proxy: held-out LDS at equal cost.

    python benchmarks/proxies_at_equal_cost.py <study> <proxy study> --each 0.1667 [--held 128] [--counts 16 32 64]

Both are folders of records: of random halves from seed 0 on and two full runs, and of random subsets of a proxy. Cost
is that of pretraining in halves of the recipe, of which a full run costs two and a model of the proxy `--each`. The
first `--held` halves are held out; what is left of the budget is split between halves and proxies. Halves are fitted
with label and feature mapping and the proxy as priors, proxies alone with the mappings; all by
`estimator=hierarchical`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from models_needed import DRAWS, LEVELS, Array, Study, blocks, lds, load, predict, show
from numpy.typing import NDArray

from sourcewise.records.reading import Records
from sourcewise.records.record import Record
from sourcewise.study.baselines import MeanMappings
from sourcewise.study.priors import mapping_tables, record_tables

FULL_RUNS, FULL_COST = 2, 2
SHARES = (0.0, 0.5, 1.0)
"""Shares of what full runs leave of the budget that go into proxies."""
LEAST_HALVES = 6
MOST_DRAWS = 4


def proxy_prior(proxies: list[Record], full: list[Record]) -> NDArray[np.float64]:
    """Return the effects of groups on classes that models of a proxy let expect, float[classes, groups]."""
    header, mappings = full[0].header, MeanMappings()
    for record in full:
        mappings.add(record)
    tables = record_tables(proxies, "prob", list(mapping_tables(mappings.means(), header)), header.study)
    (table,) = (table for table in tables if table.models)
    assert header.group_names is not None
    return table.aligned(header.class_names[table.target], header.group_names)


def main() -> None:
    """Print a line for every budget and split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("proxy", type=Path)
    parser.add_argument("--each", type=float, required=True, help="cost of a model of the proxy, in halves")
    parser.add_argument("--held", type=int, default=128, help="random halves that are held out")
    parser.add_argument("--counts", type=int, nargs="+", default=[16, 32, 64], help="budgets, in halves")
    options = parser.parse_args()
    study = load(options.study)
    proxies = [record for record in Records(str(options.proxy)) if record.header.design == "random"]
    proxies.sort(key=lambda record: record.header.subset_seed or 0)
    seeds = [record.header.subset_seed or 0 for record in proxies]
    cheap = Study(load(options.proxy).models, study.labels, study.priors)
    full = [record for record in Records(str(options.study)) if record.mask.all()][:FULL_RUNS]
    held = study.chosen("random", range(options.held))
    actual: dict[str, Array] = {"class means": held.means(study.labels).prob, "examples": held.prob}
    drawn = np.random.default_rng(0).multinomial(options.held, np.full(options.held, 1 / options.held), size=DRAWS)
    weights = np.vstack([np.ones(options.held), drawn])
    print("| cost | halves | proxies | draws | " + " | ".join(LEVELS) + " |\n| --- | --- | --- | --- | --- | --- |")
    for cost in options.counts:
        for share in SHARES:
            left = cost - FULL_RUNS * FULL_COST
            halves, models = round(left * (1 - share)), round(left * share / options.each)
            if models > len(seeds) or 0 < halves < LEAST_HALVES:
                continue
            parts = range(0, len(seeds) - models + 1, models)[:MOST_DRAWS] if models else range(1)
            fits = []
            if halves:
                for number, part in enumerate(blocks(study, "random", options.held, halves)[:MOST_DRAWS]):
                    priors, start = dict(study.priors), parts[number % len(parts)]
                    if models:
                        priors["proxy"] = proxy_prior(proxies[start : start + models], full)
                    fits.append((part, Study(study.models, study.labels, priors)))
            else:
                fits = [(cheap.chosen("random", range(seeds[start], seeds[start] + models)), cheap) for start in parts]
            cells = []
            for level in LEVELS:
                predicted = [predict("hierarchical with priors", level, *fit, held.masks) for fit in fits]
                scores = [lds(table, actual[level], weights) for table in predicted if table is not None]
                cells.append(show(np.mean(scores, axis=0)))
            print(f"| {cost} | {halves} | {models} | {len(fits)} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
