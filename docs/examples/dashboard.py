"""A page of another site that shows a desktop live: `python dashboard.py SESSION`, then open http://127.0.0.1:8099/.

The fleet's site file lists that origin: `policies: {main: {embed_origins: ["http://127.0.0.1:8099"]}}`.
The key stays in this server, which makes a ticket whenever the page asks for one. A real dashboard looks
first who asks, and whether he may see that desktop. It needs httpx and nothing else.
"""

import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

VIEWER = os.environ["DESKFLEET_URL"]  # https://desks.example.com
SESSION = sys.argv[1]
PORT = int(os.environ.get("PORT", "8099"))
POLICY = (
    f"default-src 'none'; script-src 'self' {VIEWER};"
    f" connect-src 'self' {VIEWER} {VIEWER.replace('http', 'ws', 1)};"
    " img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Dashboard</title>
<script type="module" src="{VIEWER}/embed/sandbox-viewer.js"></script>
<script type="module" src="/page.js"></script>
<h1>Tonight's run</h1>
<sandbox-viewer session="{SESSION}"></sandbox-viewer>
"""
SCRIPT = """
const viewer = document.querySelector("sandbox-viewer");
viewer.getTicket = async (session) => {
  const answer = await fetch(`/tickets/${session}`, { method: "POST" });
  if (!answer.ok) throw new Error(`the dashboard answered ${answer.status}`);
  return answer.json();
};
viewer.addEventListener("sessionchange", ({ detail: session }) => {
  document.title = `${session.status} · Dashboard`;
});
"""


class Dashboard(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/page.js":
            self.answer(200, "text/javascript", SCRIPT.encode())
        elif self.path == "/":
            self.answer(200, "text/html; charset=utf-8", PAGE.encode())
        else:
            self.answer(404, "text/plain", b"not here")

    def do_POST(self) -> None:
        if self.path != f"/tickets/{SESSION}" or self.headers["Sec-Fetch-Site"] != "same-origin":
            self.answer(403, "text/plain", b"not yours")
            return
        made = httpx.post(
            f"{VIEWER}/api/v1/sessions/{SESSION}/tickets",
            json={"role": "watch", "ttl_seconds": 30, "single_use": True},
            headers={"Authorization": f"Bearer {os.environ['DESKFLEET_KEY']}"},
        )
        self.answer(made.status_code, "application/json", made.content)

    def answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", POLICY)
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer(("127.0.0.1", PORT), Dashboard).serve_forever()
