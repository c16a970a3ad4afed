"""A container registry of one image, enough for `docker pull`: it serves what `docker save` wrote."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.hosts.network import inside
from tests.hosts.own_docker import OwnDocker

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def served_files(saved: bytes, reference: str) -> dict[str, tuple[str, bytes]]:
    """Path below /v2 -> (content type, content) for a saved image, as `name:tag`."""
    name, tag = reference.split(":")
    with tarfile.open(fileobj=io.BytesIO(saved)) as tar:

        def member(path: str) -> bytes:
            file = tar.extractfile(path)
            if file is None:
                raise ValueError(f"docker save wrote no {path}")
            return file.read()

        (described,) = json.loads(member("manifest.json"))
        config = member(described["Config"])
        layers = [gzip.compress(member(path), mtime=0) for path in described["Layers"]]

    def listed(kind: str, content: bytes) -> dict[str, object]:
        return {"mediaType": kind, "size": len(content), "digest": digest(content)}

    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": listed(CONFIG, config),
            "layers": [listed(LAYER, layer) for layer in layers],
        }
    ).encode()
    files = {f"/v2/{name}/manifests/{tag}": (MANIFEST, manifest), "/v2/": ("application/json", b"{}")}
    files[f"/v2/{name}/manifests/{digest(manifest)}"] = (MANIFEST, manifest)
    for blob in (config, *layers):
        files[f"/v2/{name}/blobs/{digest(blob)}"] = ("application/octet-stream", blob)
    return files


@contextmanager
def small_registry(
    daemon: OwnDocker, saved: bytes, reference: str, *, login: str | None = None
) -> Iterator[str]:
    """Serves the image beside the daemon, and yields the registry's address there.

    login: `user:password` of the only one who may pull; None: anybody may.

    On the daemon's own loopback, because Docker speaks plain HTTP to no other address unless told to.
    """
    files = served_files(saved, reference)
    wanted = login and f"Basic {base64.b64encode(login.encode()).decode()}"

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if wanted and self.headers["Authorization"] != wanted:
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="small"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            kind, content = files.get(
                self.path, ("application/json", b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')
            )
            self.send_response(200 if self.path in files else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Docker-Content-Digest", digest(content))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    pid = int((daemon.run_dir / "dockerd.pid").read_text())
    server = inside(pid, lambda: ThreadingHTTPServer(("127.0.0.1", 0), Answers))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
