"""How well curation finds planted harm: groups under wrong labels among innocent ones.

python benchmarks/planted_harm.py [repeats]      ten repeats of 133 runs: about 10 minutes on two cores
Trains into outputs/planted_harm what is not there yet. A repeat has other wrong labels; see docs/counterfactuals.md.
"""

import subprocess
import sys
from pathlib import Path

from sourcewise.acting import curation
from sourcewise.acting.curation import Proposal
from sourcewise.records.reading import Records
from sourcewise.study import priors
from sourcewise.study.collect import collect
from sourcewise.study.levels import weighted_classes

ROOT = Path(__file__).parents[1]
OUT = Path("outputs/planted_harm")


def train(repeat: int, models: int, out: Path) -> Path:
    """Train the models of a repeat; where their records are."""
    runs = out.absolute() / f"repeat-{repeat}"
    for sweep in ([f"subset.seed=range(0,{models})"], ["subset=full", "seed=range(0,5)"]):
        common = ["source=planted_harm", f"source.train.seed={repeat}", f"runs_dir={runs}", "logger=none"]
        command = [sys.executable, "train.py", "--config-dir", "benchmarks/conf", "-m", *common, *sweep]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return runs


def propose(runs: Path) -> tuple[Proposal, list[str]]:
    """Return the proposal from all records in a folder, and the groups that it removes."""
    study = collect(Records(str(runs), progress=False))
    full = [run.values["digits"].every.output for run in study.counterfactual_runs]
    tables = priors.values(priors.find_priors(study, "auto"))
    proposal = curation.propose(*weighted_classes(study, {"digits": 1.0}, tables), full)
    return proposal, [name for name, keep in zip(study.group_names, proposal.keep, strict=True) if not keep]


def main() -> None:
    """Print a row for every repeat."""
    print("| repeat | harmful found, of 4 | innocent removed | expected gain over the full source, points |")
    print("| --- | --- | --- | --- |")
    for repeat in range(int(sys.argv[1]) if len(sys.argv) > 1 else 10):
        proposal, removed = propose(train(repeat, 128, OUT))
        harmful = sum(name.startswith("wrong") for name in removed)
        expected = proposal.expected.full
        gain = f"{100 * expected.value:.1f} ({100 * expected.low:.1f} to {100 * expected.high:.1f})"
        print(f"| {repeat} | {harmful} | {len(removed) - harmful} | {gain} |", flush=True)


if __name__ == "__main__":
    main()
