"""An endpoint of one's own: `transformers serve` with one model, on this machine, for as long as it is needed."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from lagkit.model.api.endpoint import Endpoint
from lagkit.model.api.model import APIModel
from lagkit.model.api.requests import Requests
from lagkit.model.hub import resolve_model
from lagkit.util.errors import ConfigError, EndpointError

_SERVE = (sys.executable, "-m", "lagkit.model.api.served")
_HOST = "127.0.0.1"
_NEEDS = ("openai", "fastapi", "uvicorn")
_PAUSE = 0.2  # seconds between two looks whether the server is there
_ENDS = 10.0  # seconds that it may take to end


@contextmanager
def serving(
    model: str,
    *,
    dtype: str = "float32",
    device: str = "auto",
    requests: Requests | None = None,
    seconds: float = 180,
) -> Iterator[APIModel]:
    """`model` (alias, hub id or folder) behind an endpoint of its own, which ends with the block.

    dtype, device: as `transformers serve` takes them. The server answers one request at a time, asks for no key, and
    cuts no prompt that is too long. Raises ConfigError where its packages are missing, ModelNotFound, and EndpointError
    where it does not answer within `seconds`.
    """
    if missing := [name for name in _NEEDS if find_spec(name) is None]:
        raise ConfigError(f"Serving a model needs {', '.join(missing)}: pip install 'lagkit[api]'.")
    name, port = str(resolve_model(model)), _free_port()
    with TemporaryDirectory(prefix="lagkit-serving-") as folder, open(Path(folder, "log"), "wb") as log:
        if Path(name).is_dir():  # requests and manifests name what is loaded: no path of this machine
            name, target = Path(model).name, Path(name).resolve()
            Path(folder, name).symlink_to(target, target_is_directory=True)
        options = ["--host", _HOST, "--port", str(port), "--dtype", dtype, "--device", device]
        server = subprocess.Popen(
            [*_SERVE, name, *options], cwd=folder, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            _wait(server, port, seconds, Path(log.name))
            yield APIModel(name, endpoint=Endpoint(f"http://{_HOST}:{port}/v1", "not-needed"), requests=requests)
        finally:
            server.terminate()
            try:
                server.wait(_ENDS)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
            if server.stdin:
                server.stdin.close()


def _wait(server: subprocess.Popen[bytes], port: int, seconds: float, log: Path) -> None:
    """Return when the server is healthy; raises EndpointError where it ends before that, or takes too long."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + seconds
    while time.monotonic() < until and server.poll() is None:
        try:
            opener.open(f"http://{_HOST}:{port}/health", timeout=_PAUSE * 10).close()
            return
        except OSError:
            time.sleep(_PAUSE)
    said = log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
    how = f"did not answer within {seconds:g} s" if server.poll() is None else f"ended with {server.returncode}"
    raise EndpointError(f"`transformers serve` {how}; it last said: {said or 'nothing'}.")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((_HOST, 0))
        return int(free.getsockname()[1])
