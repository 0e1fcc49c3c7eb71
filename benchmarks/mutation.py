"""Mutation testing of the core: what share of small wrong changes the tests notice.

make mutation, or: python benchmarks/mutation.py [mutants per file, default 130]
About five minutes on two cores. `mutmut show <name>` shows a survivor; `mutmut run` alone tries all mutants.
A seeded sample of the mutants that mutmut makes of each file that pyproject.toml names (`tool.mutmut`), against the
tests named there. A mutant that runs into the time limit counts as killed.
"""

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path


def mutants() -> dict[str, dict[str, int | None]]:
    """Exit codes of all mutants (None: not run yet), by file."""
    codes_by_file = {}
    for path in sorted(Path("mutants/src").rglob("*.meta")):
        if codes := json.loads(path.read_text())["exit_code_by_key"]:
            codes_by_file[path.stem] = codes
    return codes_by_file


def main() -> None:
    """Run a sample, print the table and the survivors."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 130
    subprocess.run(["mutmut", "run", "nothing.*"], capture_output=True, check=False)  # only makes them
    rng = random.Random(0)
    sample = {name: rng.sample(sorted(codes), min(count, len(codes))) for name, codes in mutants().items()}
    subprocess.run(
        ["mutmut", "run", *(name for names in sample.values() for name in names)], capture_output=True, check=True
    )
    survivors = []
    for file, names in sample.items():
        codes = mutants()[file]
        states = Counter("survived" if codes[name] in (0, 33) else "killed" for name in names)
        survivors += [name for name in names if codes[name] in (0, 33)]
        print(f"{file:<16} {len(codes):>5} mutants, {len(names):>4} tried, {states['killed'] / len(names):.0%} killed")
    print(*survivors, sep="\n")


if __name__ == "__main__":
    main()
