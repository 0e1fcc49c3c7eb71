"""What README and docs say is there, runs, and composes."""

import re
import shlex
from pathlib import Path

import pytest
from conftest import ROOT, compose_config

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_run(page: Path) -> None:
    for code in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(compile(code, page.name, "exec"), {})


def commands() -> list[str]:
    found = []
    for page in [*PAGES, *(ROOT / "conf").rglob("*.yaml")]:
        found += re.findall(
            r"python (train\.py(?: -m)?(?: (?:'[^'\n]*'|[\w.=/\[\],+-]+))*)", page.read_text(encoding="utf-8")
        )
    return sorted(set(found))


@pytest.mark.parametrize("command", commands())
def test_commands_compose(command: str) -> None:
    words = [word for word in shlex.split(command)[1:] if word != "-m" and "..." not in word]
    values = [
        re.sub(r"=range\((\d+),.*|=([\w.]+),.*", r"=\1\2", word)
        for word in words
        if "=" in word and not word.startswith("hydra.")
    ]
    compose_config(*(value for value in values if not value.startswith("hydra/")))


def test_some_commands_were_found() -> None:
    assert len(commands()) >= 8
