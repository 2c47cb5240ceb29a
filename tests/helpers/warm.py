"""Kernels forked from a process that has imported what notebooks need: they start in less than a second, not in eight.

`use()` puts them in the place of Jupyter's own. The server imports at the first one, and ends with the tests.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

SPECS = Path(__file__).parent / "kernels"


def use() -> None:
    """Have notebooks of this process and its children run in warm kernels, where the system is Linux."""
    if not hasattr(os, "pidfd_open") or "LAGKIT_WARM_KERNELS" in os.environ:
        return
    path = os.path.join(tempfile.mkdtemp(prefix="lagkit-kernels-"), "socket")
    command = [sys.executable, "-m", __name__, path, str(os.getpid())]
    # Not our standard streams: whoever reads them through a pipe would wait for a kernel that outlives the tests.
    with open(path + ".log", "wb") as log:
        subprocess.Popen(command, cwd=Path(__file__).parents[2], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    while not os.path.exists(path):
        time.sleep(0.01)
    os.environ["LAGKIT_WARM_KERNELS"] = path
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, (str(SPECS), os.environ.get("JUPYTER_PATH"))))


def _serve(path: str, owner: int) -> None:
    """Fork a kernel for each that asks at this socket, until the process `owner` has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # that of the terminal is for the tests
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen()
    ended = os.pidfd_open(owner)
    while ended not in select.select([listening.fileno(), ended], [], [])[0]:
        asking, _ = listening.accept()
        _warm_up()
        if os.fork() == 0:
            listening.close()
            os._exit(_watch(asking))
        asking.close()


def _warm_up() -> None:
    """Import what takes long; nothing that starts threads, which a fork would lose."""
    gc.disable()
    for module in ("ipykernel.kernelapp", "IPython.core.completer", "lagkit.views.lab", "lagkit.views.plots"):
        importlib.import_module(module)
    importlib.import_module("transformers.models.llama.modeling_llama")
    importlib.import_module("lagkit.util.lazy").import_nbformat()
    importlib.import_module("plotly.io._renderers")
    gc.freeze()  # nor look through it for garbage, here and in each kernel
    gc.enable()


def _watch(asking: socket.socket) -> int:
    """Fork the kernel, pass signals on to it, and tell how it ended; kill it when who asked for it has gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, handles, _, _ = socket.recv_fds(asking, 1 << 20, 3)
    kernel = os.fork()
    if kernel == 0:
        _become(json.loads(message), handles)
    for handle in handles:
        os.close(handle)
    ended = os.pidfd_open(kernel)
    while True:
        ready, _, _ = select.select([asking.fileno(), ended], [], [])
        if ended in ready:
            code = os.waitstatus_to_exitcode(os.waitpid(kernel, 0)[1])
            with contextlib.suppress(OSError):
                asking.send(code.to_bytes(1, signed=True))
            return 0
        number = asking.recv(1)
        os.kill(kernel, number[0] if number else signal.SIGKILL)


def _become(asked: dict[str, Any], handles: list[int]) -> NoReturn:
    """Be the kernel that was asked for: its arguments, folder, environment and standard streams."""
    for target, handle in enumerate(handles):
        os.dup2(handle, target)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(asked["env"], JPY_PARENT_PID=str(os.getppid()))
    os.chdir(asked["cwd"])
    sys.argv[:] = asked["argv"]
    sys.path[:] = [path for path in sys.path if path != ""]
    from ipykernel.kernelapp import launch_new_instance

    try:
        launch_new_instance()
    except SystemExit as ended:
        os._exit(ended.code if isinstance(ended.code, int) else 0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
