"""W&B agents: a command that an agent starts answers for the W&B run that the agent has for it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sourcewise.core.errors import EXIT_LEASED, WORKER
from sourcewise.records.wandb_tracker import KILLED, SWEEP, WandbTracker, finish

AGENT_VARIABLES = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH")
"""What an agent puts into the environment of a command."""


def under_agent() -> bool:
    """Return whether a W&B agent waits for a W&B run from this process."""
    return (
        "WANDB_SWEEP_ID" in os.environ
        and WORKER not in os.environ
        and os.environ.get("LOCAL_RANK", "0") == "0"  # under DDP, one process speaks for the run
    )


@contextmanager
def answering_agent() -> Iterator[None]:
    """End the run that a W&B agent has for the command inside with the command's exit code, whatever it does.

    A run of ours takes the agent's. With `train.py -m` every run is a W&B run with the tag `sweep-<id>`, and the
    agent's run stands for the block. It also stands for what fails before a run of ours has begun.
    """
    if not under_agent():
        yield
        return
    is_block, taken, code = bool({"-m", "--multirun"} & set(sys.argv)), {}, KILLED
    if is_block:
        taken = {name: os.environ.pop(name) for name in AGENT_VARIABLES if name in os.environ}
        os.environ[SWEEP] = taken["WANDB_SWEEP_ID"]
    try:
        yield
        code = 0
    except SystemExit as error:
        # A run that someone else is doing is no failure of this one.
        code = 0 if error.code in (None, 0, EXIT_LEASED) else KILLED if error.code in (130, 143) else 1
        raise
    except Exception:
        code = 1
        raise
    finally:
        os.environ.pop(SWEEP, None)
        os.environ.update(taken)
        if "WANDB_RUN_ID" in os.environ:  # no run of ours has taken it
            overrides = [argument for argument in sys.argv[1:] if "=" in argument]
            tracker = WandbTracker(dir=os.environ.get("WANDB_DIR", "."))
            finish(tracker.open(" ".join(overrides), "", {"overrides": overrides}, "block"), code)
