"""Prints what happens to the desktops of a tenant. DESKFLEET_WEBHOOK_SECRET: the endpoint's `whsec_…`."""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook, WebhookVerificationError

webhook = Webhook(os.environ["DESKFLEET_WEBHOOK_SECRET"])
seen: set[str] = set()  # in earnest: a table, because an event may come more than once, also after days


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            event = webhook.verify(body, dict(self.headers))
        except WebhookVerificationError:
            self.send_error(400, "the signature is not valid")
            return
        if self.headers["webhook-id"] not in seen:
            seen.add(self.headers["webhook-id"])
            # In one piece, because events may come at once.
            print(f"{event['type']} {event['data'].get('id', '')}\n", end="", flush=True)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """One line for each event is enough."""


ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "8000"))), Receiver).serve_forever()
