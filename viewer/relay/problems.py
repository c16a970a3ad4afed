"""Refusals as the relay words them."""

from __future__ import annotations

from aiohttp import web

from viewer.relay.answers import RelayProblem


def problem(status: int, title: str, detail: str) -> web.Response:
    """An answer that is no content and must not be kept."""
    body = RelayProblem(title=title, status=status, detail=detail).model_dump_json()
    return web.Response(
        status=status,
        text=body,
        content_type="application/problem+json",
        headers={"Cache-Control": "no-store"},
    )
