"""The bodies of the commands."""

from pathlib import Path

CONFIGS = str(Path(__file__).parents[1] / "conf")
"""The folder of our configs: in a checkout a link to conf/."""
