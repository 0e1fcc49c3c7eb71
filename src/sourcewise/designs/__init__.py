"""Designs: which groups a run keeps, as pure functions of (groups, settings, seed).

The same arguments give the same subset on every machine and with every version of every library: randomness comes
from SHAKE-256 rather than from a random number library, and golden tests pin it.
"""

from sourcewise.designs.contract import Design
from sourcewise.designs.registry import DESIGNS, draw, find_design, recorded_design, resolve

__all__ = ["DESIGNS", "Design", "draw", "find_design", "recorded_design", "resolve"]
