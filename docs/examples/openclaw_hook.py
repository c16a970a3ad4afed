#!/usr/bin/env python3
"""Tell a Deskfleet what becomes of an OpenClaw run and its sandbox. Python 3.9 or later, nothing else.

    openclaw_hook.py run start --run run-7 --task invoices --agent main --prompt "Pay the invoices"
    openclaw_hook.py sandbox created 9d2f… --run run-7 --agent main
    openclaw_hook.py sandbox error 9d2f… --run run-7 --error "out of memory"
    openclaw_hook.py event < event.json

DESKFLEET_EVENTS_URL: the `url` that came with the webhook secret.
DESKFLEET_WEBHOOK_SECRET_FILE: a file with the secret, `whsec_…`; or DESKFLEET_WEBHOOK_SECRET, itself.
DESKFLEET_CA_FILE: PEM file of the authority to trust, instead of the system's.

The answer is printed. 0: taken. 1: refused, or not taken within --patience seconds. 2: wrong usage.
"""

import argparse
import base64
import hashlib
import hmac
import http.client
import json
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.request
import uuid

AGAIN = {404, 408, 425, 429, 500, 502, 503, 504}
"""404: the sandbox may not be known there yet."""
LONGEST_PAUSE = 30


class Unusable(Exception):
    """The environment or the event cannot be used; the text is one sentence."""


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """An event goes where it was meant to go, or nowhere."""

    def redirect_request(self, *_arguments):
        return None


def main():
    asked = parser().parse_args()
    try:
        url, secret = address(), secret_key()
        opener = urllib.request.build_opener(NoRedirects, urllib.request.HTTPSHandler(context=trust()))
        body = json.dumps(event_of(asked)).encode()
    except Unusable as problem:
        print(f"openclaw_hook: {problem}", file=sys.stderr)
        return 2
    return send(opener, url, secret, body, asked.patience)


def parser():
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--patience", type=float, default=120, help="seconds of trying again (120)")
    about = argparse.ArgumentParser(add_help=False)
    about.add_argument("--run", required=True, help="the run's id")
    about.add_argument("--task", help="the task that the run belongs to")
    about.add_argument("--agent", help="the agent's name")
    about.add_argument("--error", help="what went wrong")
    kinds = found.add_subparsers(dest="kind", required=True)
    run = kinds.add_parser("run", parents=[common, about], help="what a run does")
    run.add_argument("action", choices=["start", "progress", "end", "error"])
    run.add_argument("--prompt", help="what it is to do")
    run.add_argument("--message", help="what it says")
    sandbox = kinds.add_parser("sandbox", parents=[common, about], help="what becomes of a sandbox")
    sandbox.add_argument("event", choices=["created", "running", "terminated", "error"])
    sandbox.add_argument("sandbox_id")
    sandbox.add_argument("--image")
    sandbox.add_argument("--resolution")
    kinds.add_parser("event", parents=[common], help="an event as it is, JSON on standard input")
    return found


def event_of(asked):
    if asked.kind == "event":
        try:
            return json.load(sys.stdin)
        except ValueError as problem:
            raise Unusable(f"standard input is no JSON: {problem}") from problem
    event = {"runId": asked.run, "action": "sandbox" if asked.kind == "sandbox" else asked.action}
    if asked.task:
        event["sessionKey"] = f"mission:{asked.task}"
    if asked.agent:
        event["agentId"] = asked.agent
    if asked.kind == "run":
        return {**event, **given(asked, "prompt", "message", "error")}
    content = given(asked, "event", "sandbox_id", "image", "resolution", "error")
    document = {"title": f"Sandbox {asked.sandbox_id}", "type": "sandbox", "content": json.dumps(content)}
    return {**event, "document": document}


def given(asked, *names):
    return {name: getattr(asked, name) for name in names if getattr(asked, name) is not None}


def address():
    url = os.environ.get("DESKFLEET_EVENTS_URL", "")
    if re.match(r"https://|http://(localhost|127\.[0-9.]+|\[::1\])[:/]", url) is None:
        raise Unusable("DESKFLEET_EVENTS_URL is no https:// address (http:// is for this machine alone)")
    return url


def secret_key():
    text = os.environ.get("DESKFLEET_WEBHOOK_SECRET", "")
    file = os.environ.get("DESKFLEET_WEBHOOK_SECRET_FILE")
    if file:
        try:
            with open(file) as opened:
                text = opened.read()
        except OSError as problem:
            raise Unusable(f"DESKFLEET_WEBHOOK_SECRET_FILE: {file}: {problem.strerror}") from problem
    try:
        key = base64.b64decode(text.strip().removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not key:
        raise Unusable("there is no webhook secret; set DESKFLEET_WEBHOOK_SECRET_FILE to a file with it")
    return key


def trust():
    try:
        return ssl.create_default_context(cafile=os.environ.get("DESKFLEET_CA_FILE") or None)
    except OSError as problem:
        raise Unusable(f"DESKFLEET_CA_FILE: {problem.strerror or problem}") from problem


def send(opener, url, secret, body, patience):
    """Every try has the same id, so that the event is taken once, whichever answer is lost."""
    message_id, until, pause = f"msg_{uuid.uuid4().hex}", time.monotonic() + patience, 1.0
    while True:
        status, text, wait = tried(opener, url, secret, message_id, body)
        if status == 200:
            print(text)
            return 0
        wait = min(max(wait, pause), LONGEST_PAUSE)
        if (status is not None and status not in AGAIN) or time.monotonic() + wait > until:
            print(f"openclaw_hook: {status or 'no answer'}: {text}", file=sys.stderr)
            return 1
        time.sleep(wait)
        pause = min(pause * 2, LONGEST_PAUSE)


def tried(opener, url, secret, message_id, body):
    """Status (None without an answer), what was said, and after how many seconds to try again."""
    request = urllib.request.Request(url, body, headers(secret, message_id, body))  # noqa: S310
    try:
        with opener.open(request, timeout=30) as answer:
            return answer.status, answer.read().decode(), 0
    except urllib.error.HTTPError as refusal:
        with refusal:
            wait = refusal.headers.get("Retry-After", "")
            return refusal.code, sentence(refusal.read()), int(wait) if wait.isdigit() else 0
    except (OSError, http.client.HTTPException) as problem:
        return None, str(problem), 0


def headers(secret, message_id, body):
    """Signed as Standard Webhooks says, at the time of each try."""
    now = str(int(time.time()))
    digest = hmac.new(secret, f"{message_id}.{now}.".encode() + body, hashlib.sha256).digest()
    return {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": now,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def sentence(answer):
    try:
        return str(json.loads(answer)["detail"])
    except (ValueError, KeyError, TypeError):
        return answer[:200].decode(errors="replace")


if __name__ == "__main__":
    sys.exit(main())
