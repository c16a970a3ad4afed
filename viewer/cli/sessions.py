"""`deskfleet sessions`: desktops, from asking for one to its end."""

from __future__ import annotations

import argparse
import os
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from viewer.cli.api import Api
from viewer.cli.arguments import Nouns, given, leaf, noun, pair, pairs, seconds, whole_number
from viewer.cli.files import new_file
from viewer.cli.output import (
    Output,
    age,
    duration,
    harmless,
    moment,
    plain,
    reason_of,
    session_listing,
    table,
    until,
)
from viewer.cli.paging import collect
from viewer.cli.problems import Misused, Refused
from viewer.incoming import (
    AskForHelp,
    CreateSession,
    ListQuery,
    RenewSession,
    ResourceLimits,
    ScreenshotQuery,
    SetLabels,
    TerminateSessions,
)
from viewer.model import Kind, Sort, Status
from viewer.public import HelpAnswer, PublicSession, SessionList, Terminated

_WAIT_PIECE_SECONDS = 2
# A server with too many who wait answers at once.
_SHORTEST_PIECE_SECONDS = 0.5
_LIVE = tuple(status for status in Status if not status.is_terminal)


def add_to(nouns: Nouns) -> None:
    verbs = noun(nouns, "sessions", "desktops and other sandboxes")
    _add_list(verbs)
    _add_create(verbs)
    leaf(verbs, "show", _show, "show one session").add_argument("session")
    waits = leaf(verbs, "wait", _wait, "wait until a session is usable, and say what it waits for")
    waits.add_argument("session")
    waits.add_argument(
        "--timeout", type=seconds, metavar="DURATION", help="give up after this; 1 is the exit code"
    )
    renews = leaf(verbs, "renew", _renew, "let a session live on from now")
    renews.add_argument("session")
    renews.add_argument(
        "--ttl", type=seconds, metavar="DURATION", help="for how long; as at its start if not given"
    )
    leaf(verbs, "pause", _pause, "freeze a running desktop; its memory stays").add_argument("session")
    leaf(verbs, "resume", _resume, "let a paused desktop run on").add_argument("session")
    _add_help(verbs)
    _add_terminate(verbs)
    leaf(verbs, "history", _history, "show what happened to a session").add_argument("session")
    _add_screenshot(verbs)
    labels = leaf(verbs, "label", _label, "set labels (NAME=VALUE) and take them away (NAME-)")
    labels.add_argument("session")
    labels.add_argument("changes", nargs="+", metavar="NAME=VALUE|NAME-")


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--status", action="append", type=Status, choices=list(Status), help="may be given several times"
    )
    parser.add_argument("--task", metavar="ID")
    parser.add_argument("--agent", metavar="ID")
    parser.add_argument("--image", metavar="NAME")
    parser.add_argument("--host", metavar="NAME")
    parser.add_argument(
        "--label", action="append", type=pair, metavar="NAME=VALUE", help="several: all of them hold"
    )


# --- looking --------------------------------------------------------------------------------------------


def _add_list(verbs: Nouns) -> None:
    parser = leaf(verbs, "list", _list, "list sessions, newest first")
    _add_filters(parser)
    parser.add_argument("--sandbox", metavar="ID", help="the sandbox's id on its host")
    parser.add_argument("--needs-person", action="store_true", help="only those that call for a person")
    parser.add_argument("--text", metavar="WORDS", help="words that all are somewhere in what is shown")
    parser.add_argument(
        "--sort",
        type=Sort,
        choices=list(Sort),
        default=Sort.NEWEST,
        help="what comes first; expires: of those that live, what ends first",
    )
    parser.add_argument("--limit", type=whole_number, default=50, help="how many at most, 50 if not given")
    parser.add_argument("--all", action="store_true", help="all of them, whatever --limit says")


def _list(asked: argparse.Namespace, api: Api, out: Output) -> int:
    found, cursor = _find(
        api,
        asked,
        None if asked.all else asked.limit,
        sandbox=asked.sandbox,
        needs_person=asked.needs_person,
        text=asked.text,
        sort=asked.sort,
    )
    rows = [
        (one.id, one.status, one.image, one.host, one.task_id, one.agent_id, age(one.created_at), _end(one),
         reason_of(one))
        for one in found
    ]  # fmt: skip
    header = ("SESSION", "STATUS", "IMAGE", "HOST", "TASK", "AGENT", "AGE", "ENDS", "REASON")
    out.show(SessionList(items=found, next_cursor=cursor), table(header, rows))
    if cursor is not None:
        out.note("there are more; --all shows them")
    return 0


def _end(session: PublicSession) -> str | None:
    """The nearer one of its two ends."""
    ends = [end for end in (session.expires_at, session.idle_ends_at) if end is not None]
    return None if session.status.is_terminal or not ends else until(min(ends))


def _find(
    api: Api,
    asked: argparse.Namespace,
    limit: int | None,
    *,
    sandbox: str | None = None,
    needs_person: bool = False,
    status: Sequence[Status] | None = None,
    text: str | None = None,
    sort: Sort = Sort.NEWEST,
) -> tuple[tuple[PublicSession, ...], str | None]:
    """Sessions that match, and the cursor of those that come after `limit`."""

    def page(cursor: str | None, most: int) -> SessionList:
        return api.sessions(
            given(
                ListQuery,
                status=status or asked.status,
                task_id=asked.task,
                agent_id=asked.agent,
                sandbox_id=sandbox,
                image=asked.image,
                host=asked.host,
                help=needs_person or None,
                label=tuple(f"{name}={value}" for name, value in asked.label or ()),
                q=text,
                sort=sort,
                cursor=cursor,
                limit=most,
            )
        )

    return collect(page, limit)


def _show(asked: argparse.Namespace, api: Api, out: Output) -> int:
    session = api.session(asked.session)
    out.show(session, session_listing(session))
    return 0


def _history(asked: argparse.Namespace, api: Api, out: Output) -> int:
    found = api.history(asked.session)
    rows = [
        (moment(step.at), step.status, step.reason, step.host, step.by, step.detail) for step in found.items
    ]
    out.show(found, table(("AT", "STATUS", "REASON", "HOST", "BY", "DETAIL"), rows))
    return 0


def _add_screenshot(verbs: Nouns) -> None:
    parser = leaf(verbs, "screenshot", _screenshot, "write what a desktop shows now into a file")
    parser.add_argument("session")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", required=True, help="a new .png or .jpg; - for a pipe"
    )
    parser.add_argument("--width", type=whole_number, metavar="PIXELS", help="as the screen is if not given")
    parser.add_argument("--format", choices=("png", "jpeg"), help="by the file's name if not given")


def _screenshot(asked: argparse.Namespace, api: Api, out: Output) -> int:
    named = "jpeg" if asked.output.suffix.lower() in (".jpg", ".jpeg") else "png"
    wanted = given(ScreenshotQuery, format=asked.format or named, width=asked.width)
    picture = api.screenshot(asked.session, wanted).data
    if str(asked.output) == "-":
        sys.stdout.buffer.write(picture)
        return 0
    # What a screen shows is nobody else's business.
    with new_file(asked.output, mode=0o600) as target:
        target.write(picture)
    out.note(f"written to {asked.output}")
    return 0


# --- making ---------------------------------------------------------------------------------------------


def _add_create(verbs: Nouns) -> None:
    parser = leaf(verbs, "create", _create, "make a desktop, and wait until it is usable")
    parser.add_argument("--image", metavar="NAME", help="`deskfleet images list` shows them")
    parser.add_argument("--resolution", metavar="WIDTHxHEIGHT")
    parser.add_argument("--open-url", metavar="URL", help="what its browser shows first")
    parser.add_argument("--command", metavar="LINE", help="a command line that is run on it once")
    parser.add_argument(
        "--env", action="append", metavar="NAME[=VALUE]", help="without a value: that of this shell"
    )
    parser.add_argument("--locale")
    parser.add_argument("--keyboard")
    parser.add_argument("--timezone")
    parser.add_argument("--task", metavar="ID")
    parser.add_argument("--agent", metavar="ID")
    parser.add_argument("--label", action="append", type=pair, metavar="NAME=VALUE")
    parser.add_argument(
        "--ttl", type=seconds, metavar="DURATION", help="how long it lives unless it is renewed"
    )
    parser.add_argument("--lifetime", type=seconds, metavar="DURATION", help="no renewal goes beyond")
    parser.add_argument(
        "--idle", type=seconds, metavar="DURATION", help="it ends when nobody uses it for so long"
    )
    parser.add_argument("--cpu", metavar="CORES", help="such as 2 or 500m")
    parser.add_argument("--memory", metavar="SIZE", help="such as 2Gi")
    parser.add_argument("--host", metavar="NAME", help="make it on this one")
    parser.add_argument(
        "--host-label", action="append", type=pair, metavar="NAME=VALUE", help="its host must have it"
    )
    parser.add_argument("--no-queue", action="store_true", help="be refused where the fleet is full")
    parser.add_argument("--no-wait", action="store_true", help="do not wait until it is usable")
    parser.add_argument(
        "--idempotency-key", metavar="TEXT", help="the same one finds what it made first, for 24 hours"
    )


def _create(asked: argparse.Namespace, api: Api, out: Output) -> int:
    session = api.create(_wanted(asked), asked.idempotency_key or str(uuid.uuid4()))
    if not asked.no_wait:
        # Said first, so that whoever stops waiting knows what to end.
        out.note(f"session {session.id}")
        session = until_made(api, session, out.note)
    out.show(session, session_listing(session))
    return _code_of(session, out)


def _wanted(asked: argparse.Namespace) -> CreateSession:
    """It waits here and not in the request, to show what it waits for."""
    limits = given(ResourceLimits, cpu=asked.cpu, memory=asked.memory)
    return given(
        CreateSession,
        wait=False,
        image=asked.image,
        resolution=asked.resolution,
        open_url=asked.open_url,
        command=asked.command,
        env=_environment(asked.env),
        locale=asked.locale,
        keyboard=asked.keyboard,
        timezone=asked.timezone,
        task_id=asked.task,
        agent_id=asked.agent,
        labels=pairs(asked.label),
        ttl_seconds=asked.ttl,
        max_lifetime_seconds=asked.lifetime,
        idle_seconds=asked.idle,
        resource_limits=limits if limits.model_fields_set else None,
        host=asked.host,
        host_labels=pairs(asked.host_label),
        queue=False if asked.no_queue else None,
    )


def _environment(texts: Sequence[str] | None) -> dict[str, str] | None:
    """A secret need not stand on the command line: a name alone takes its value from this environment."""
    found = {}
    for text in texts or ():
        name, sign, value = text.partition("=")
        if not sign and name not in os.environ:
            raise Misused(f"--env {name}: this shell has no such variable; give {name}=VALUE, or export it")
        found[name] = value if sign else os.environ[name]
    return found or None


def _wait(asked: argparse.Namespace, api: Api, out: Output) -> int:
    session = until_made(api, api.session(asked.session), out.note, asked.timeout)
    out.show(session, session_listing(session))
    return _code_of(session, out)


def until_made(
    api: Api, session: PublicSession, note: Callable[[str], None], timeout: float | None = None
) -> PublicSession:
    """The session once it is no longer being made; what it waits for is noted whenever that changes.

    Raises Refused after `timeout` seconds.
    """
    began, said = time.monotonic(), ""
    while session.status is Status.CREATING:
        reason = reason_of(session)
        if reason and reason != said:
            note(reason)
            said = reason
        asked_at = time.monotonic()
        if timeout is not None and asked_at - began >= timeout:
            raise Refused(
                f"session {session.id} is not usable after {duration(timeout)}: {reason or 'creating'}"
            )
        session = api.session(session.id, wait_seconds=_WAIT_PIECE_SECONDS)
        if session.status is Status.CREATING:
            time.sleep(max(0.0, _SHORTEST_PIECE_SECONDS - (time.monotonic() - asked_at)))
    return session


def _code_of(session: PublicSession, out: Output) -> int:
    """1 for one that is over although it was to be used."""
    if not session.status.is_terminal:
        return 0
    out.note(f"session {session.id} is over: {reason_of(session) or session.status}")
    return 1


# --- changing -------------------------------------------------------------------------------------------


def _renew(asked: argparse.Namespace, api: Api, out: Output) -> int:
    session = api.renew(asked.session, given(RenewSession, ttl_seconds=asked.ttl))
    out.show(session, f"{session.id} ends {until(session.expires_at)}")
    return 0


def _pause(asked: argparse.Namespace, api: Api, out: Output) -> int:
    return _say_became(api.pause(asked.session), Status.PAUSED, out)


def _resume(asked: argparse.Namespace, api: Api, out: Output) -> int:
    return _say_became(api.resume(asked.session), Status.RUNNING, out)


def _say_became(session: PublicSession, wanted: Status, out: Output) -> int:
    later = "" if session.status is wanted else "; its host does not answer yet"
    out.show(session, f"{session.id} {'is' if not later else 'will be'} {wanted}{later}")
    return 0


def _label(asked: argparse.Namespace, api: Api, out: Output) -> int:
    labels = dict(api.session(asked.session).labels)
    for change in asked.changes:
        name, sign, value = change.partition("=")
        if sign:
            labels[name] = value
        elif change.endswith("-"):
            labels.pop(change[:-1], None)
        else:
            raise Misused(f"{change!r} is neither NAME=VALUE nor NAME-")
    session = api.set_labels(asked.session, given(SetLabels, labels=labels))
    shown = " ".join(f"{name}={value}" for name, value in session.labels.items()) or "no labels"
    out.show(session, f"{session.id} has {shown}")
    return 0


# --- calling a person -----------------------------------------------------------------------------------


def _add_help(verbs: Nouns) -> None:
    parser = leaf(verbs, "help", _help, "call a person to a desktop, say that it is done, or see which it is")
    parser.add_argument("session")
    parser.add_argument("reason", nargs="?", help="what a person is to do; everybody sees it")
    parser.add_argument("--done", action="store_true", help="no person is needed any more")
    parser.add_argument(
        "--wait", type=seconds, metavar="DURATION", help="wait until it is done; 1 is the exit code if not"
    )


def _help(asked: argparse.Namespace, api: Api, out: Output) -> int:
    if asked.done and (asked.reason or asked.wait):
        raise Misused("--done ends a call: give no reason and no --wait with it")
    if asked.done:
        api.end_help(asked.session)
    elif asked.reason is not None:
        api.ask_for_help(asked.session, given(AskForHelp, reason=asked.reason))
    answer = _until_helped(api, asked.session, asked.wait or 0)
    out.show(answer, _help_in_words(answer))
    return 1 if asked.wait and answer.help is not None else 0


def _until_helped(api: Api, session_id: str, patience: float) -> HelpAnswer:
    """How it is once nobody is needed, or after so many seconds."""
    began = time.monotonic()
    answer = api.help(session_id)
    while answer.help is not None and time.monotonic() - began < patience:
        asked_at = time.monotonic()
        answer = api.help(session_id, wait_seconds=_WAIT_PIECE_SECONDS)
        if answer.help is not None:
            time.sleep(max(0.0, _SHORTEST_PIECE_SECONDS - (time.monotonic() - asked_at)))
    return answer


def _help_in_words(answer: HelpAnswer) -> str:
    call = answer.help
    if call is not None:
        return f"a person is needed since {moment(call.asked_at)}: {plain(call.reason)}"
    if answer.ended_at is None:
        return "no person is needed"
    return f"no person is needed: ended by {plain(answer.ended_by_name)}, {moment(answer.ended_at)}"


# --- ending ---------------------------------------------------------------------------------------------


def _add_terminate(verbs: Nouns) -> None:
    parser = leaf(verbs, "terminate", _terminate, "end sessions: those named, or all that match")
    parser.add_argument("session", nargs="*")
    _add_filters(parser)
    parser.add_argument("--all", action="store_true", help="every sandbox of the tenant")
    parser.add_argument("--yes", action="store_true", help="do not ask before ending all that match")


def _terminate(asked: argparse.Namespace, api: Api, out: Output) -> int:
    matching = _condition(asked)
    if asked.session and matching is not None:
        raise Misused("name sessions or give conditions, not both")
    if asked.session:
        return _terminate_named(asked.session, api, out)
    if matching is None:
        raise Misused("say which: session ids, a condition such as --task, or --all")
    return _terminate_matching(matching, asked, api, out)


def _condition(asked: argparse.Namespace) -> TerminateSessions | None:
    wanted = given(
        TerminateSessions,
        status=asked.status,
        task_id=asked.task,
        agent_id=asked.agent,
        image=asked.image,
        host=asked.host,
        labels=pairs(asked.label),
        all=asked.all or None,
    )
    return wanted if wanted.model_fields_set else None


def _terminate_named(ids: Sequence[str], api: Api, out: Output) -> int:
    """All of them, also when one is refused; the document has those that were not."""
    ended, code = list[PublicSession](), 0
    for session_id in ids:
        try:
            ended.append(api.terminate(session_id))
        except Refused as error:
            out.note(f"{session_id}: {error}")
            code = error.code
    lines = [f"{one.id} {_ending(one)}" for one in ended]
    out.show(SessionList(items=tuple(ended), next_cursor=None), "\n".join(lines) or "nothing was ended")
    return code


def _ending(session: PublicSession) -> str:
    return "has ended" if session.status.is_terminal else "will end; its host does not answer yet"


def _terminate_matching(wanted: TerminateSessions, asked: argparse.Namespace, api: Api, out: Output) -> int:
    if not asked.yes:
        count = _count(asked, api)
        if count and not _is_agreed(f"End {count} {'sandbox' if count == 1 else 'sandboxes'}? [y/N] "):
            out.note("nothing was ended")
            return 1
    ids, more = list[str](), True
    while more:
        answer = api.terminate_matching(wanted)
        ids += answer.ids
        more = answer.more
    # Whoever runs this in a script wants to know that nothing matched, and that is no failure.
    out.show(Terminated(ids=tuple(ids), more=False), f"{len(ids)} will end" if ids else "nothing matches")
    return 0


def _count(asked: argparse.Namespace, api: Api) -> int:
    """How many would end now. What the inventory declares does not."""
    live = [status for status in asked.status or _LIVE if not status.is_terminal]
    found, _ = _find(api, asked, None, status=live) if live else ((), None)
    return sum(one.kind is Kind.SANDBOX for one in found)


def _is_agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise Misused("there is nobody to ask; give --yes to end all that match")
    print(harmless(question), end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
