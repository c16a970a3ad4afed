"""An agent: makes a desktop that shows a page, and ends it on Enter. It needs httpx and nothing else."""

import os
import sys

import httpx

api = f"{os.environ['DESKFLEET_URL']}/api/v1"
key = {"Authorization": f"Bearer {os.environ['DESKFLEET_KEY']}"}
wanted = {"image": "desktop", "open_url": sys.argv[1], "task_id": "show-a-page", "idle_seconds": 600}

with httpx.Client(headers=key, timeout=180) as client:
    answer = client.post(f"{api}/sessions", json=wanted)
    if answer.is_error:
        sys.exit(answer.json()["detail"])
    desktop = answer.json()
    print(f"Watch it at {desktop['page_url']}", flush=True)
    input("Press Enter to end it. ")
    client.delete(f"{api}/sessions/{desktop['id']}").raise_for_status()
