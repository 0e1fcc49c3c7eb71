"""A task that stands in for training: what it does is in the config's `fake`, by subset seed; it writes a tiny record."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from sourcewise import claims, study


def train(config: dict[str, Any]) -> dict[str, float]:
    folder = study.run_dir(config)
    seed = config["subset"]["seed"]
    fake = config.get("fake", {})
    with claims.claim(folder) as lease:
        if study.is_done(folder):
            return {}
        print("hello from", seed)
        os.write(1, b"by fd\n")
        time.sleep(fake.get("sleep", 0.0))
        deed = fake.get("deeds", {}).get(str(seed))
        once = folder / "once"
        if deed == "raise":
            raise ValueError(f"bad {seed}")
        if deed == "raise_once" and not once.exists():
            once.touch()
            raise ValueError("bad once")
        if deed == "exit":
            sys.exit(3)
        if deed == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if deed == "kill_once" and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if deed == "hang":
            time.sleep(1000)
        if deed == "stubborn":
            while True:
                try:
                    time.sleep(1000)
                except KeyboardInterrupt:
                    print("no")
        if deed == "nothing":
            return {}
        lease.check()
        write(folder / study.RECORD, f"record {seed}\n".encode())
        once.unlink(missing_ok=True)
    return {"seed": float(seed)}


def write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    time.sleep(0.002)
    temporary.replace(path)
