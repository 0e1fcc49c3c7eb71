"""An interpreter for programs that tests start: each is forked from a process that has imported the heavy libraries.

`interpreter()` is the path of an executable that stands for `sys.executable`, without the seconds that every start of it
takes. It sends its arguments, folder, environment and streams to a server, which forks a process that runs them; it passes
signals on, and ends as that process does. What a test has to see start for real it starts with `sys.executable`.
"""

# ruff: noqa: PTH100, PTH109, PTH120, PTH123  (what asks the server starts in milliseconds, without pathlib)

import contextlib
import functools
import json
import os
import signal
import socket
import sys

HEAVY = (
    "sourcewise.commands.datasets",
    "sourcewise.commands.estimate",
    "sourcewise.commands.images",
    "sourcewise.commands.results",
    "sourcewise.commands.tracked_results",
    "sourcewise.commands.train",
    "sourcewise.data",
    "sourcewise.data.embedded",
    "sourcewise.data.load",
    "sourcewise.data.loaders",
    "sourcewise.records.wandb_reader",
    "sourcewise.records.wandb_tracker",
    "sourcewise.report.contents",
    "sourcewise.sweep.launcher",
    "sourcewise.training.run",
    "wandb.sdk.launch.agent",
)
"""Modules that the server imports: what the two commands take long for."""
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@functools.cache
def interpreter() -> str:
    """Start the server of this process, and return the path of the executable that asks it. `wandb` lies beside it."""
    import atexit
    import shutil
    import subprocess
    import tempfile
    from pathlib import Path

    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    program, wandb = folder / "python", folder / "wandb"
    program.write_text(
        f"#!{sys.executable} -IS\nimport sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"from warm_python import ask\nask({sys.executable!r}, {str(folder / 'socket')!r})\n"
    )
    wandb.write_text(f'#!/bin/sh\nexec {program} {Path(sys.executable).parent / "wandb"} "$@"\n')
    for file in (program, wandb):
        file.chmod(0o755)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen(64)
        command = [sys.executable, __file__, str(listener.fileno())]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        server = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, pass_fds=[listener.fileno()])
    atexit.register(server.communicate)  # it ends when its stdin does
    return str(program)


def ask(executable: str, address: str) -> None:
    """Have the server run this process's arguments; end as its process ends. What it does not know is run for real."""
    arguments = sys.argv[1:]
    if not (arguments and (arguments[0] == "-c" or not arguments[0].startswith("-"))):
        os.execv(executable, [executable, *arguments])
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    server.connect(address)
    request = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
    socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
    process = int(server.recv(100))
    for number in FORWARDED:
        signal.signal(number, lambda number, frame: os.kill(process, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    status = os.waitstatus_to_exitcode(int(server.recv(100)))
    end_with(status)


def serve(listener: socket.socket) -> dict:
    """Fork a process for each request, and tell who asked how it ended; return the request in each of these processes."""
    import atexit
    import select

    wake, woken = socket.socketpair()
    woken.setblocking(False)
    signal.set_wakeup_fd(woken.fileno())
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is for pytest
    clients: dict[socket.socket, int] = {}
    while True:
        ready, _, _ = select.select([sys.stdin, wake, listener, *clients], [], [])
        if sys.stdin in ready:
            atexit._run_exitfuncs()
            os._exit(0)
        for client in [client for client in ready if client in clients]:  # it was killed, and so is what it asked for
            os.kill(clients[client], signal.SIGKILL)
        if wake in ready:
            wake.recv(4096)
            for client, process in list(clients.items()):
                ended, status = os.waitpid(process, os.WNOHANG)
                if ended:
                    with client, contextlib.suppress(OSError):
                        client.send(str(status).encode())
                    del clients[client]
        if listener in ready:
            client, _ = listener.accept()
            message, streams, _, _ = socket.recv_fds(client, 1 << 20, 3)
            process = os.fork()
            if process == 0:
                for number, stream in enumerate(streams):
                    os.dup2(stream, number)
                    os.close(stream)
                for item in (wake, woken, listener, client, *clients):
                    item.close()
                return json.loads(message)
            for stream in streams:
                os.close(stream)
            clients[client] = process
            client.send(str(process).encode())


def become(arguments: list[str], folder: str, environment: dict[str, str], libraries: list[str]) -> None:
    """Make a forked process like one that has just been started with these arguments."""
    import tempfile
    import warnings
    import weakref

    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
    sys.warnoptions[:] = filter(None, environment.get("PYTHONWARNINGS", "").split(","))
    warnings.resetwarnings()
    warnings._processoptions(sys.warnoptions)  # type: ignore[attr-defined]
    tempfile.tempdir = None
    weakref.finalize._registry.clear()  # type: ignore[attr-defined]  # folders of the server's
    is_code = arguments[0] == "-c"
    first = "" if is_code else os.path.dirname(os.path.abspath(arguments[0]))
    sys.argv[:] = ["-c", *arguments[2:]] if is_code else arguments
    sys.path[:] = [first, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)), *libraries]


def run(arguments: list[str]) -> None:
    """Run a program, and end the process as the interpreter would, but for the seconds in which it takes itself apart."""
    import atexit
    import threading
    from types import ModuleType

    main = sys.modules["__main__"] = ModuleType("__main__")
    status = 0
    try:
        if arguments[0] == "-c":
            code = compile(arguments[1], "<string>", "exec")
        else:
            main.__file__ = arguments[0]
            with open(arguments[0], "rb") as file:
                code = compile(file.read(), arguments[0], "exec")
        exec(code, vars(main))
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else end.code is not None
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        status = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.stderr.flush()
    end_with(status)


def end_with(status: int) -> None:
    """End this process with an exit status; a negative one is a signal's."""
    if status < 0 and status != -signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    if status < 0:
        os.kill(os.getpid(), -status)
    os._exit(status)


def import_heavy() -> list[str]:
    """Import what programs take long for; return where Python finds libraries, apart from PYTHONPATH."""
    import atexit
    import gc
    import importlib

    from hydra.core.plugins import Plugins

    libraries = sys.path[1 + len([*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]) :]
    for name in HEAVY:
        importlib.import_module(name)
    Plugins.instance()
    from wandb.sdk.data_types._private import MEDIA_TMP

    atexit.unregister(MEDIA_TMP.cleanup)  # else the first process to end would remove the folder of all
    gc.freeze()  # pages of what is imported stay shared
    return libraries


if __name__ == "__main__":
    libraries = import_heavy()
    request = serve(socket.socket(fileno=int(sys.argv[1])))
    become(**request, libraries=libraries)
    run(request["arguments"])
