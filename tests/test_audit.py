"""`make audit` against a vulnerability service of our own: clean, vulnerable, not to be reached."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

AUDIT = Path(__file__).parents[1] / ".ci" / "audit.py"
ONE = "Packages: 1 audited, 0 not known to the service.\n"
FLAW = {
    "id": "PYSEC-1",
    "summary": "It leaks.",
    "affected": [
        {
            "package": {"name": "broken", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
        }
    ],
}


@contextmanager
def service(status: int = 200) -> Iterator[str]:
    """A service in OSV's form that knows one flaw."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps({"vulns": [FLAW]} if asked["package"]["name"] == "broken" else {}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def audit(tmp_path):
    pytest.importorskip("pip_audit")

    def run(address: str, pins: str) -> tuple[int, str]:
        path = tmp_path / "pins.txt"
        path.write_text(pins)
        words = ["-r", str(path), "-s", "osv", "--osv-url", address, "--cache-dir", str(tmp_path / "cache")]
        done = subprocess.run([sys.executable, AUDIT, *words], capture_output=True, text=True)
        assert done.stderr == ""
        return done.returncode, done.stdout

    return run


def test_clean_versions_pass_and_a_known_vulnerability_fails(audit):
    with service() as address:
        assert audit(address, "sound==1.0\n") == (0, f"Known vulnerabilities: 0. {ONE}")
        code, said = audit(address, "sound==1.0\nbroken==1.0\n")
    assert code == 1
    assert (
        said == f"broken 1.0: PYSEC-1, fixed in 1.1. It leaks.\nKnown vulnerabilities: 1. {ONE.replace('1 a', '2 a')}"
    )


def test_a_service_that_cannot_be_reached_is_told_and_fails_nothing(audit):
    with service(status=503) as address:
        assert audit(address, "sound==1.0\n")[0] == 0
    code, said = audit(address, "sound==1.0\n")
    assert code == 0
    assert said.startswith("Not audited: the vulnerability service cannot be reached (")
    assert said.count("\n") == 1


def test_pins_that_are_none_fail(audit):
    code, said = audit("http://127.0.0.1:9", "sound>=1.0\n")
    assert code == 1
    assert said.startswith("pip-audit failed: ")
    assert "not pinned to an exact version" in said
