"""The page that says why a desktop is black, in Chromium.

Stand-in, by name: `answer_with` answers for the API where a certain outcome is to be shown; what the real
programs say is in tests/worker/test_diagnosis.py.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser import PHONE, Complaints, scrolls_sideways
from tests.pages.axe import assert_accessible
from tests.pages.site import PagesSite
from viewer.diagnosis_answers import Diagnosis, DiagnosisStep, StepName, StepState
from viewer.model import Status, utcnow

pytestmark = [pytest.mark.browser, pytest.mark.real]

SCRIPT = "<img src=x onerror=document.title='owned'>"


def outcome(session_id: str, **of_steps: tuple[StepState, str, str | None]) -> Diagnosis:
    """Every step is well unless `of_steps` (`first_frame=…`) says another thing of it."""
    steps = []
    for name in StepName:
        state, what, mend = of_steps.get(name.replace("-", "_"), (StepState.OK, f"The {name} is well.", None))
        steps.append(DiagnosisStep(step=name, state=state, what=what, mend=mend, took_ms=12.3))
    failed = next((step for step in steps if step.state is StepState.FAILED), None)
    summary = f"{failed.what} {failed.mend}" if failed else "Everything works."
    return Diagnosis(
        session_id=session_id, at=utcnow(), ok=failed is None, summary=summary, steps=tuple(steps)
    )


def answer_with(page: Page, found: Diagnosis) -> None:
    lines = [*(step.model_dump_json() for step in found.steps), found.model_dump_json()]

    def answer(route: Route) -> None:
        assert route.request.headers["accept"] == "application/x-ndjson"
        route.fulfill(status=200, content_type="application/x-ndjson", body="\n".join(lines) + "\n")

    page.route(
        "**/diagnosis", lambda route: answer(route) if "/api/" in route.request.url else route.continue_()
    )


def step(page: Page, name: str) -> Any:
    return page.locator(f"[data-step={name}]")


def test_real_diagnosis_of_a_host_that_is_not_there(
    page: Page, site: PagesSite, complaints: Complaints
) -> None:
    session = site.running()
    page.goto(f"{site.origin}/diagnosis/{session.id}")
    expect(page).to_have_title(re.compile("^Fault found · Diagnosis of .* · Deskfleet$"))
    expect(page.locator(".step")).to_have_count(len(StepName))
    expect(step(page, "row")).to_have_attribute("data-state", "ok")
    expect(step(page, "host")).to_have_attribute("data-state", "failed")
    expect(step(page, "host").locator(".step-mend")).to_contain_text("See whether the machine")
    expect(step(page, "container")).to_have_attribute("data-state", "skipped")
    expect(page.locator("#diagnosis-verdict")).to_contain_text("Host here does not answer")
    expect(page.locator(".diagnosis-session .badge")).to_have_text("Running")
    page.get_by_role("link", name="Back to the desktop").click()
    expect(page).to_have_url(f"{site.origin}/sandboxes/{session.id}")
    assert complaints.heard == []


def test_outcome_is_shown_run_again_and_copied(page: Page, site: PagesSite) -> None:
    session = site.running()
    black = outcome(
        session.id, first_frame=(StepState.FAILED, "It is of one colour (black).", "Press a key.")
    )
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    answer_with(page, black)
    page.goto(f"{site.origin}/diagnosis/{session.id}")
    expect(page.locator("#diagnosis-verdict")).to_have_attribute("data-tone", "bad")
    expect(page.locator("#diagnosis-verdict")).to_have_text("It is of one colour (black). Press a key.")
    page.get_by_role("button", name="Copy report").click()
    expect(page.locator("#copy-note")).to_have_text("Copied.")
    report = page.evaluate("navigator.clipboard.readText()")
    assert f"diagnosis of session {session.id}" in report
    assert "[Failed] First frame (12 ms): It is of one colour (black).\n    mend: Press a key." in report
    page.unroute_all()
    answer_with(page, outcome(session.id))
    page.get_by_role("button", name="Run again").click()
    expect(page.locator("#diagnosis-verdict")).to_have_attribute("data-tone", "good")
    expect(page).to_have_title(re.compile("^Works · "))
    assert_accessible(page)


def test_what_programs_say_is_text_and_fits_a_phone(page: Page, site: PagesSite) -> None:
    session = site.running()
    page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
    hostile = f"{SCRIPT} {'x' * 300} \u202egnihtyreve"
    answer_with(page, outcome(session.id, container=(StepState.FAILED, hostile, hostile)))
    page.goto(f"{site.origin}/diagnosis/{session.id}")
    expect(step(page, "container").locator(".step-what")).to_contain_text(SCRIPT)
    expect(page).to_have_title(re.compile("^Fault found"))
    assert page.locator("main img").count() == 0
    assert not scrolls_sideways(page)
    assert_accessible(page)


def test_refusal_and_a_broken_answer_are_said(page: Page, site: PagesSite) -> None:
    session = site.running()
    api = f"**/api/v1/sessions/{session.id}/diagnosis"
    page.route(api, lambda route: route.fulfill(status=429, content_type="application/problem+json",
                                                body='{"detail": "Wait a while."}'))  # fmt: skip
    page.goto(f"{site.origin}/diagnosis/{session.id}")
    expect(page.locator("#diagnosis-verdict")).to_have_text("Wait a while.")
    page.unroute_all()
    page.route(api, lambda route: route.fulfill(status=200, content_type="application/x-ndjson", body=""))
    page.get_by_role("button", name="Run again").click()
    expect(page.locator("#diagnosis-verdict")).to_contain_text("broke off")
    page.unroute_all()
    page.route(api, lambda route: route.abort())
    page.get_by_role("button", name="Run again").click()
    expect(page.locator("#diagnosis-verdict")).to_contain_text("cannot be reached")


def test_viewer_leads_there_from_its_menu_and_where_no_picture_comes(page: Page, site: PagesSite) -> None:
    session = site.running()
    page.goto(f"{site.origin}/sandboxes/{session.id}")
    page.get_by_role("button", name="More").click()
    link = page.get_by_role("menuitem", name="Why is this black?")
    expect(link).to_have_attribute("href", f"/diagnosis/{session.id}")
    site.store.fleet.transition(session.id, Status.ERROR, error_message="it is on fire")
    expect(page.locator(".viewer-cover")).to_contain_text("it is on fire")
    page.get_by_role("link", name="Find out why").click()
    expect(page.locator("#diagnosis-verdict")).to_contain_text("It has failed: it is on fire.")
