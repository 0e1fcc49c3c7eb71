"""The hook that makes the page of all settings from the files in conf/, whose comments are their documentation."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

CONF = Path(__file__).parents[1] / "conf"
INTRODUCTION = """# Settings

Every setting is a line of one of these files, with a comment that explains it. Set it with `key=value`, choose an
option of a group with `group=option` (such as `subset=hadamard`), and keep your own options in a folder that you pass
with `--config-dir`. `experiment=` is applied after all others, and `proxy=` after it.
"""


def on_files(files: Files, config: Any) -> Files:
    """Add reference/settings.md."""
    text = INTRODUCTION
    folder = None
    for path in sorted(CONF.rglob("*.yaml"), key=lambda path: (len(path.parts) > len(CONF.parts) + 1, path)):
        name = path.relative_to(CONF)
        if name.parent != folder and name.parent != Path():
            folder = name.parent
            text += f"\n## {folder}\n"
        level = "##" if name.parent == Path() else "###"
        text += f"\n{level} {name.stem}\n\n```yaml\n{path.read_text(encoding='utf-8')}```\n"
    files.append(File.generated(config, "reference/settings.md", content=text))
    return files
