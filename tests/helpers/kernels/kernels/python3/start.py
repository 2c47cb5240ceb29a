"""Ask the server of tests.helpers.warm for a kernel, pass signals on to it, and end as it ends, or who started it."""

import json
import os
import select
import signal
import socket
import sys

asked = {"argv": sys.argv, "cwd": os.getcwd(), "env": dict(os.environ)}
server = socket.socket(socket.AF_UNIX)
server.connect(os.environ["LAGKIT_WARM_KERNELS"])
socket.send_fds(server, [json.dumps(asked).encode()], [0, 1, 2])
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: server.send(bytes([number])))
ready, _, _ = select.select([server.fileno(), os.pidfd_open(os.getppid())], [], [])
ended = server.recv(1) if server.fileno() in ready else b""  # nothing if the server was killed, either
code = int.from_bytes(ended, signed=True) if ended else 1
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
