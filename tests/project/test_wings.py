"""The wings of docs/architecture.md: what its table and drawing say is what the code imports."""

import ast
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
SOURCE = ROOT / "src/sourcewise"
HYDRA = (
    "commands",
    "hydra_plugins",
    *(f"sweep.{name}" for name in ("composition", "launcher", "slurm", "sweeper")),
)
"""Wings and modules that may import Hydra and OmegaConf."""


def product_files() -> dict[str, Path]:
    """Every Python file of the product by its module name, without `sourcewise.`."""
    roots = {"lightning_modules": ROOT / "lightning_modules", "hydra_plugins": ROOT / "src/hydra_plugins/sourcewise"}
    roots |= {path.name: path for path in SOURCE.iterdir() if path.is_dir() and not path.is_symlink()}
    files = {"sourcewise": SOURCE / "__init__.py", "train": ROOT / "train.py", "estimate": ROOT / "estimate.py"}
    for wing, root in roots.items():
        for path in root.rglob("*.py"):
            files[".".join((wing, *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__")] = path
    return files


FILES = product_files()


def imports(path: Path, *, at_the_top: bool = False) -> Iterator[str]:
    """Modules that a file imports, for types too; those of sourcewise without their first name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if at_the_top else ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name if name.removeprefix("sourcewise.") in FILES else str(node.module) for name in modules]
        else:
            continue
        yield from (name.removeprefix("sourcewise.") for name in modules)


def table() -> dict[str, set[str]]:
    """Return what each wing may import, from the table under `## Wings`."""
    rows = re.findall(r"^\| `(\w+)` \| .+? \|(.*)\|$", PAGE.split("## Wings")[1].split("\n## ")[0], flags=re.MULTILINE)
    return {wing: set(re.findall(r"`([\w.]+)`", allowed)) for wing, allowed in rows}


def lines_of_the_drawing() -> dict[str, int]:
    """Return the line on which the drawing under `## Wings` has each wing."""
    drawing = PAGE.split("## Wings")[1].split("```")[1]
    return {wing: number for number, line in enumerate(drawing.splitlines()) for wing in re.findall(r"\w+", line)}


def test_table_and_drawing_have_every_wing() -> None:
    wings = {name.partition(".")[0] for name in FILES} - {"sourcewise", "train", "estimate", "hydra_plugins"}
    assert len(wings) == 12
    assert set(table()) == wings == set(lines_of_the_drawing())


@pytest.mark.parametrize("wing", table())
def test_a_wing_imports_what_the_table_says(wing: str) -> None:
    allowed = table()
    used = set()
    for name, path in FILES.items():
        if name.partition(".")[0] != wing:
            continue
        for module in imports(path):
            other = module.partition(".")[0]
            if other in allowed and other not in (wing, "core"):
                entry = module if module in allowed[wing] else other
                assert entry in allowed[wing], f"{name} imports {module}"
                used.add(entry)
    assert used == allowed[wing], "the table allows what nothing uses"


def test_imports_lead_down_the_drawing() -> None:
    line = lines_of_the_drawing()
    for wing, allowed in table().items():
        for entry in allowed:
            assert line[entry.partition(".")[0]] > line[wing], f"{wing} imports {entry}"
    assert max(line, key=lambda wing: line[wing]) == "core"


@pytest.mark.parametrize("place", re.findall(r"`(sourcewise\.[\w.]+:[\w.]+)`", PAGE))
def test_places_on_the_page_exist(place: str) -> None:
    assert pkgutil.resolve_name(place)


@pytest.mark.parametrize("name", FILES)
def test_no_file_is_long_and_each_says_what_it_is(name: str) -> None:
    text = FILES[name].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(text))


def importers(*packages: str, at_the_top: bool = False) -> set[str]:
    """Modules of the product that import one of the packages."""
    return {
        name
        for name, path in FILES.items()
        if any(module.partition(".")[0] in packages for module in imports(path, at_the_top=at_the_top))
    }


def test_hydra_is_known_to_commands_launchers_and_sweepers() -> None:
    assert importers("hydra", "omegaconf")
    assert [
        name for name in importers("hydra", "omegaconf") if name not in HYDRA and name.split(".")[0] not in HYDRA
    ] == []


def test_one_module_writes_to_wandb_and_one_reads() -> None:
    writer, reader = re.findall(r"imports wandb to write \(`(.+)\.py`\) and one to read \(`(.+)\.py`\)", PAGE)[0]
    assert importers("wandb") == {writer.replace("/", "."), reader.replace("/", ".")}


def test_estimation_needs_arrays_only() -> None:
    allowed = {"numpy", "scipy", "core", "estimation", *sys.stdlib_module_names}
    for name, path in FILES.items():
        if name.startswith("estimation"):
            assert {module.partition(".")[0] for module in imports(path)} <= allowed, name


def test_core_and_designs_start_without_torch() -> None:
    names = importers("torch", "torchvision", "pytorch_lightning", at_the_top=True)
    assert names
    assert [name for name in names if name.startswith(("core.", "designs."))] == []
