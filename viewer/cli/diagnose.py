"""`deskfleet diagnose`: why a desktop shows nothing, step by step."""

from __future__ import annotations

import argparse

from viewer.cli.api import Api
from viewer.cli.arguments import Nouns, leaf
from viewer.cli.output import Output, plain, table
from viewer.diagnosis_answers import Diagnosis, DiagnosisStep


def add_to(nouns: Nouns) -> None:
    leaf(
        nouns, "diagnose", _diagnose, "say step by step why a desktop shows nothing, and what mends it"
    ).add_argument("session")


def _diagnose(asked: argparse.Namespace, api: Api, out: Output) -> int:
    """1 where a step has failed."""
    found = api.diagnosis(asked.session)
    out.show(found, _as_text(found))
    return 0 if found.ok else 1


def _as_text(found: Diagnosis) -> str:
    header = ("STEP", "STATE", "TOOK", "WHAT")
    rows = [(step.step, step.state, _took(step), step.what) for step in found.steps]
    mends = [f"{step.step}: {plain(step.mend)}" for step in found.steps if step.mend is not None]
    return "\n".join([table(header, rows), "", plain(found.summary) if not mends else "To do:", *mends])


def _took(step: DiagnosisStep) -> str:
    return f"{step.took_ms:.0f} ms"
