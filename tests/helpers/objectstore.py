"""An S3 server on loopback, which counts what it is asked and plays the faults of real ones."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

KEY, SECRET = "loopback-key-id-1", "loopback-secret-value-2"
_DENIED = f"<Error><Code>InvalidAccessKeyId</Code><Message>No such key</Message><AWSAccessKeyId>{KEY}</AWSAccessKeyId>"
SLOW_DOWN = "503 Slow Down", "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
DENIED = "403 Forbidden", f"{_DENIED}<StringToSign>{SECRET}</StringToSign></Error>"
HANG = "hang", ""

# (method, path with query) -> what to answer instead; None: the right thing.
Fault = Callable[[str, str], tuple[str, str] | None]


class ObjectStore:
    """moto's S3 with one bucket at a time per test: `requests` are those since `requests.clear()`."""

    def __init__(self) -> None:
        # Here, since few tests need them.
        import boto3
        from moto.server import create_backend_app  # type: ignore[attr-defined]  # moto says not what it exports
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            protocol_version = "HTTP/1.1"

            def log(self, *_: object) -> None:
                pass

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.requests: list[tuple[str, str]] = []
        self.fault: Fault | None = None
        self._released = threading.Event()
        # Not the dispatcher for all services, which looks through moto's folders to answer a request.
        self._moto = create_backend_app("s3")
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=Quiet)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.client = boto3.client(
            "s3", endpoint_url=self.url, aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name="us-east-1"
        )

    def _answer(self, env, start):
        asked = env["REQUEST_METHOD"], f"{env['PATH_INFO']}?{env.get('QUERY_STRING', '')}"
        self.requests.append(asked)
        played = self.fault(*asked) if self.fault else None
        if played == HANG:
            self._released.wait(60)
            played = SLOW_DOWN
        if played is None:
            return self._moto(env, start)
        env["wsgi.input"].read(int(env.get("CONTENT_LENGTH") or 0))
        body = played[1].encode()
        start(played[0], [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]

    @contextmanager
    def playing(self, fault: Fault) -> Iterator[None]:
        """Play a fault, and let hanging requests go afterwards."""
        self._released.clear()
        self.fault = fault
        try:
            yield
        finally:
            self.fault = None
            self._released.set()

    def bucket(self, name: str) -> str:
        """A new bucket."""
        self.client.create_bucket(Bucket=name)
        return name

    def keys(self, bucket: str, part: str = "") -> list[str]:
        """The names of objects that have `part` in them."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return [found["Key"] for page in pages for found in page.get("Contents", ()) if part in found["Key"]]

    def nbytes(self, bucket: str) -> int:
        """The bytes of all objects."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return sum(found["Size"] for page in pages for found in page.get("Contents", ()))

    def close(self) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="session")
def server():
    found = ObjectStore()
    yield found
    found.close()


@pytest.fixture
def bucket(server, monkeypatch, tmp_path, request):
    """The address of a bucket of the test's own; the environment has what it takes to reach it."""
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LAGKIT_HOME", str(tmp_path / "home"))
    name = server.bucket(f"bucket-{abs(hash(request.node.nodeid)):x}")
    server.requests.clear()
    return f"s3://{name}"


def environment(server: ObjectStore) -> dict[str, str]:
    """The variables that lead to a server."""
    keys = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}
    return {**keys, "AWS_ENDPOINT_URL": server.url, "AWS_EC2_METADATA_DISABLED": "true"}
