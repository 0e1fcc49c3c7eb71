r"""Omniglot's two small background sets as folders: seven alphabets as a source, Latin or Greek as the target.

    python benchmarks/omniglot.py <folder>   # that holds images_background_small1 and images_background_small2
    python benchmarks/search.py experiment=folders source.root=outputs/omniglot/source \
        target.imagefolder.root=outputs/omniglot/target source.pretraining.epochs=12 \
        target.imagefolder.train.per_class=5 --ways search
    # by alphabet: and source.groups=outputs/omniglot/alphabets.yaml --budget 60
    # the second target, whose source holds Latin in place of Greek: --target Greek --out <another folder>

The sets are those of https://github.com/brendenlake/omniglot. Of each character
20 people drew one each.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Copy every character to a folder of its own, and write which alphabet it is of."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--target", default="Latin", help="the alphabet that is the target")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs/omniglot")
    options = parser.parse_args()
    # Greek and Latin are in both sets, the same.
    alphabets = {path.name: path for path in sorted(options.folder.glob("images_background_small[12]/*"))}
    if options.target not in alphabets:
        parser.error(f"{options.folder}: there is no images_background_small1/{options.target}")
    if options.out.exists():
        parser.error(f"{options.out} is there already; name another folder with --out")
    shutil.copytree(alphabets.pop(options.target), options.out / "target")
    alphabet_of = {}
    for alphabet, folder in alphabets.items():
        for character in sorted(folder.iterdir()):
            name = f"{alphabet}_{character.name}"
            shutil.copytree(character, options.out / "source" / name)
            alphabet_of[name] = alphabet
    (options.out / "alphabets.yaml").write_text(yaml.safe_dump(alphabet_of), encoding="utf-8")
    print(f"{options.out}: {len(alphabet_of)} characters of {len(alphabets)} alphabets")


if __name__ == "__main__":
    main()
