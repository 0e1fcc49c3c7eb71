"""The interpreter of the tests' own programs against Python's."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from warm_python import interpreter


@pytest.mark.parametrize(
    "code",
    [
        "import sys; print(sys.argv, input(), __name__, sys.warnoptions, sys.path[0])",
        "import os; print(os.getcwd(), sorted(name for name in os.environ if name != 'LC_CTYPE'))",
        "import sys; print('text'); sys.exit(3)",
        "import sys; sys.exit('a reason')",
        "import atexit; atexit.register(print, 'at the end'); raise ValueError('wrong')",
        "raise KeyboardInterrupt",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import os; os._exit(7)",
        "import threading, time; threading.Thread(target=lambda: (time.sleep(0.2), print('later'))).start()",
        "import warnings; warnings.warn('as an error')",
    ],
)
def test_a_program_ends_as_under_python(code: str, tmp_path: Path) -> None:
    ends = []
    for python in (sys.executable, interpreter()):
        done = subprocess.run(
            [python, "-c", code, "a", "--b"], input="typed\n", capture_output=True, text=True, cwd=tmp_path,
            env={"PYTHONWARNINGS": "error", "PATH": os.environ["PATH"]},
        )  # fmt: skip
        ends.append((done.returncode, done.stdout, done.stderr.splitlines()[-1:]))
    assert ends[0] == ends[1]


def test_a_script_finds_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("VALUE = 5\n")
    (tmp_path / "script.py").write_text("import beside, sys\nprint(beside.VALUE, __file__, sys.argv)\n")
    command = [str(tmp_path / "script.py"), "x"]
    ends = [subprocess.run([python, *command], capture_output=True) for python in (sys.executable, interpreter())]
    assert ends[0].stdout == ends[1].stdout
    assert [end.returncode for end in ends] == [0, 0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_reaches_the_program(number: signal.Signals) -> None:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(1000)"
    process = subprocess.Popen([interpreter(), "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    program = int(process.stdout.readline())
    assert program != process.pid
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == -number
    limit = time.monotonic() + 60
    while Path(f"/proc/{program}").exists():
        assert time.monotonic() < limit
        time.sleep(0.01)
