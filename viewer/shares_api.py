"""Share links: made, listed and revoked by operators; opened and watched by whoever was sent one.

The pages behind a link hold nothing of the desktop, and say nothing of where they were opened from: no
referrer leaves them, nothing of them is kept, and no search engine is to list them.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

from flask import Blueprint, Response, make_response, render_template, request

from viewer import logs
from viewer.access import (
    anyone,
    check_same_origin,
    client_address,
    needs,
    principal,
    public_origin,
)
from viewer.answers import host_statuses, json_answer
from viewer.attempts import of_share_links
from viewer.incoming import CreateShare, OpenShare, PageQuery, json_body, query
from viewer.model import Display, Role, Scope, Session
from viewer.openapi import Answer, Operation, describes
from viewer.problems import Problem, too_many_attempts
from viewer.relay_client import RelayUnreachable
from viewer.services import services
from viewer.share_answers import (
    NewPublicShare,
    PublicShare,
    SharedSession,
    ShareList,
    SharePage,
    ShareVisit,
    WayIn,
)
from viewer.share_visits import by_share, let_in, over, visitor_to, visits_shown
from viewer.shares import MOST_LINKS, Opened, Share, ShareOver, TooManyShares, Visit

shares_api = Blueprint("shares", __name__)

OPENED_AT = "/s"
_PRIVATE = {
    "Referrer-Policy": "no-referrer",
    "X-Robots-Tag": "noindex, nofollow",
    "Cache-Control": "no-store",
}


# --- for those who share ----------------------------------------------------------------------------


@shares_api.post("/api/v1/sessions/<session_id>/shares")
@needs(Role.OPERATOR, scope=Scope.STREAMS)
@describes(
    Operation(
        summary="Make a link by which a desktop is watched without an account",
        body=CreateShare,
        answers={201: Answer("The link, whose address is shown this once.", NewPublicShare)},
        problems=(400, 404, 409, 410, 413, 415, 422),
    )
)
def create_share(session_id: str) -> Response:
    session, asked = _own(session_id), json_body(CreateShare)
    _check_can_be_shared(session)
    try:
        made = services().store.shares.create(
            session,
            principal(),
            label=asked.label or "",
            life=timedelta(seconds=asked.ttl_seconds),
            is_single_use=asked.single_use,
        )
    except TooManyShares as error:
        detail = f"There are {MOST_LINKS} good links to this desktop already; revoke one that nobody needs."
        raise Problem(409, "too-many-shares", "Too many links", detail) from error
    except ShareOver as error:
        raise over(error.why) from error
    logs.hide(made.token)
    share = made.share
    return json_answer(
        NewPublicShare(
            id=share.id,
            url=f"{public_origin()}{OPENED_AT}#{made.token}",
            single_use=share.is_single_use,
            expires_at=share.ends_at,
        ),
        201,
    )


@shares_api.get("/api/v1/sessions/<session_id>/shares")
@needs(Role.OPERATOR, scope=Scope.STREAMS)
@describes(
    Operation(
        summary="The links to a desktop, and who came by them",
        answers={200: Answer("The newest 200, those that are over too.", ShareList)},
        problems=(404,),
    )
)
def list_shares(session_id: str) -> Response:
    session = _own(session_id)
    shares = services().store.shares.list(session)
    streams = _streams_open(session) if any(share.visits for share in shares) else Counter()
    return json_answer(ShareList(items=tuple(_public(share, streams) for share in shares)))


@shares_api.get("/api/v1/shares")
@needs(Role.OPERATOR, scope=Scope.STREAMS)
@describes(
    Operation(
        summary="The links to all desktops, newest first, those that are over too",
        query=PageQuery,
        answers={200: Answer("One page.", SharePage)},
        problems=(400, 422),
    )
)
def list_all_shares() -> Response:
    asked = query(PageQuery)
    page = services().store.shares.page(principal().tenant, asked.cursor, asked.limit)
    return json_answer(
        SharePage(items=tuple(_public(share, None) for share in page.items), next_cursor=page.next_cursor)
    )


@shares_api.delete("/api/v1/sessions/<session_id>/shares/<share_id>")
@needs(Role.OPERATOR, scope=Scope.STREAMS)
@describes(
    Operation(
        summary="Revoke a link: whoever watches by it is out within seconds",
        answers={204: Answer("It lets nobody in any more; also when it was revoked before.")},
        problems=(404,),
    )
)
def revoke_share(session_id: str, share_id: str) -> Response:
    services().store.shares.revoke(_own(session_id), share_id)
    return Response(status=204)


# --- for those who were sent one --------------------------------------------------------------------


@shares_api.get(OPENED_AT)
@anyone
def share_page() -> Response:
    """The same for every link: what stands behind the # never comes here with the address."""
    return _private(make_response(render_template("share.html", signed_in=None)))


@shares_api.post(OPENED_AT)
@anyone
def open_share() -> Response:
    check_same_origin()
    asked, attempts = json_body(OpenShare), services().store.attempts
    counted = of_share_links(client_address())
    if seconds := attempts.seconds_to_wait(counted):
        raise too_many_attempts(seconds)
    try:
        opened = _opened(asked.token)
    except ShareOver as error:
        attempts.failed(counted)
        raise over(error.why) from error
    response = json_answer(WayIn(page=f"/shared/{opened.visitor.session_id}"))
    let_in(response, opened.cookie)
    return _private(response)


@shares_api.get("/shared/<session_id>")
@anyone
def shared_page(session_id: str) -> Response:
    try:
        visitor = visitor_to(session_id)
    except Problem as problem:
        said = problem.document
        page = render_template("share_over.html", signed_in=None, title=said.title, detail=said.detail)
        return _private(make_response(page, problem.status))
    until = visitor.ends_at.isoformat()
    page = render_template("shared.html", signed_in=None, session_id=visitor.session_id, until=until)
    return _private(make_response(page))


@shares_api.get("/api/v1/shared/<session_id>")
@needs(Role.WATCHER, scope=Scope.STREAMS, door=by_share)
@describes(
    Operation(
        summary="A session, for a browser that came by a share link",
        answers={200: Answer("What a visitor is told of it.", SharedSession)},
        problems=(404, 410),
    )
)
def shared_session(session_id: str) -> Response:
    visitor = visitor_to(session_id)
    session = services().store.tenant(visitor.who.tenant).get(visitor.session_id)
    told = {name: getattr(session, name) for name in SharedSession.model_fields if hasattr(session, name)}
    host_status = host_statuses().get(session.host) if session.host else None
    holder = services().store.leases.of(session.id).holder
    control = None if holder is None else holder.kind
    return _private(
        json_answer(
            SharedSession(**told, host_status=host_status, control=control, shared_until=visitor.ends_at)
        )
    )


def _opened(token: str) -> Opened:
    """Of the browser's visits the one that is of this link counts; it may be any of them."""
    shares, browser = services().store.shares, request.headers.get("User-Agent")
    known = visits_shown()
    return shares.open(token, cookies=known, address=client_address() or None, user_agent=browser)


def _own(session_id: str) -> Session:
    return services().store.tenant(principal().tenant).get(session_id)


def _check_can_be_shared(session: Session) -> None:
    if session.status.is_terminal:
        raise over("ended")
    if session.display is Display.NONE:
        detail = "This sandbox has no screen, so there is nothing to watch."
        raise Problem(409, "not-shareable", "This desktop cannot be shared", detail)


def _streams_open(session: Session) -> Counter[str] | None:
    """How many streams each principal has open now; None where the host does not say."""
    relay = services().relays.get(session.host) if session.host else None
    if relay is None:
        return Counter()
    try:
        streams = relay.streams()
    except RelayUnreachable:
        return None
    return Counter(stream.principal for stream in streams if stream.session_id == session.id)


def _public(share: Share, streams: Counter[str] | None) -> PublicShare:
    return PublicShare(
        id=share.id,
        session_id=share.session_id,
        label=share.label or None,
        single_use=share.is_single_use,
        created_by=share.created_by,
        created_at=share.created_at,
        expires_at=share.ends_at,
        revoked_at=share.revoked_at,
        is_over=share.is_over,
        visits=tuple(_public_visit(share, visit, streams) for visit in share.visits),
    )


def _public_visit(share: Share, visit: Visit, streams: Counter[str] | None) -> ShareVisit:
    return ShareVisit(
        id=visit.id,
        address=visit.address,
        user_agent=visit.user_agent,
        since=visit.created_at,
        last_seen_at=visit.used_at,
        streams_open=None if streams is None else streams[f"share:{share.id}/{visit.id}"],
    )


def _private(response: Response) -> Response:
    response.headers.update(_PRIVATE)
    return response
