"""The API as typed calls over HTTP: models in, models out, a refusal as one sentence."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from viewer import __version__
from viewer.cli.connection import Connection
from viewer.cli.problems import Refused
from viewer.deliveries.public import (
    CreateWebhook,
    DeliveryList,
    DeliveryQuery,
    PatchWebhook,
    PublicDelivery,
    PublicWebhook,
    WebhookList,
    WebhookWithSecret,
)
from viewer.diagnosis_answers import Diagnosis
from viewer.document_requests import DocumentQuery, PutDocument
from viewer.incoming import (
    AskForHelp,
    AuditQuery,
    CreateSession,
    CreateShare,
    CreateTicket,
    CreateWebhookSecret,
    DrainHost,
    ExportQuery,
    ListQuery,
    PageQuery,
    PutAgent,
    PutTask,
    RenewSession,
    RotateWebhookSecret,
    ScreenshotQuery,
    SetLabels,
    TaskQuery,
    TerminateSessions,
    WaitQuery,
)
from viewer.input_actions import Gesture, InputDone
from viewer.problems import ProblemDocument
from viewer.public import (
    AgentList,
    AuditList,
    Catalogue,
    HelpAnswer,
    History,
    HostList,
    Me,
    NewWebhookSecret,
    PublicAgent,
    PublicHost,
    PublicSession,
    PublicTask,
    SessionList,
    TaskList,
    Terminated,
    WebhookSecretList,
)
from viewer.public_documents import DocumentList, PublicDocument
from viewer.public_leases import LeaseAnswer
from viewer.public_streams import OpenStreams, PublicTicket
from viewer.share_answers import NewPublicShare, ShareList
from viewer.task_addresses import segment_of

_PREFIX = "/api/v1"
# Ending and pausing wait 15 s for the host, a wait is asked for in small pieces.
_TIMEOUT = httpx.Timeout(60, connect=10)
# A heartbeat comes every 15 s.
_EVENTS_TIMEOUT = httpx.Timeout(45, connect=10)
_CREATE_TRIES = 3

_Answer = TypeVar("_Answer", bound=BaseModel)


class NoAnswer(Refused):
    """Nobody answered, so that nobody knows whether it was done."""


class TryAgain(Refused):
    """The server, or what stands before it, cannot answer just now."""


@dataclass(frozen=True)
class Screenshot:
    """data: a PNG or JPEG file. screen: width and height in pixels of the desktop itself, however small the
    picture is; None of a viewer that does not say it."""

    data: bytes
    screen: tuple[int, int] | None


LeaseVerb = Literal["take", "renew", "request", "give", "release"]


class Api:
    """One fleet as one key sees it. Every call raises Refused."""

    def __init__(self, connection: Connection, transport: httpx.BaseTransport | None = None) -> None:
        self.url = connection.url
        self._http = httpx.Client(
            base_url=connection.url,
            headers={
                "Authorization": f"Bearer {connection.key.get_secret_value()}",
                "User-Agent": f"deskfleet/{__version__}",
            },
            timeout=_TIMEOUT,
            verify=connection.trust() if connection.url.startswith("https:") else True,
            transport=transport,
        )

    def __enter__(self) -> Api:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._http.close()

    # --- sessions ------------------------------------------------------------------------------------

    def create(self, wanted: CreateSession, idempotency_key: str) -> PublicSession:
        """Sent again when its answer is lost: the key keeps it from being made twice."""
        for _ in range(_CREATE_TRIES - 1):
            with contextlib.suppress(NoAnswer):
                return self._create(wanted, idempotency_key)
        return self._create(wanted, idempotency_key)

    def _create(self, wanted: CreateSession, idempotency_key: str) -> PublicSession:
        headers = {"Idempotency-Key": idempotency_key}
        return self._ask("POST", "/sessions", PublicSession, body=wanted, headers=headers)

    def sessions(self, asked: ListQuery) -> SessionList:
        return self._ask("GET", "/sessions", SessionList, query=asked)

    def session(self, session_id: str, *, wait_seconds: int = 0) -> PublicSession:
        asked = WaitQuery(wait_seconds=wait_seconds)
        return self._ask("GET", _path("sessions", session_id), PublicSession, query=asked)

    def terminate(self, session_id: str) -> PublicSession:
        """The session as it is then: `terminated`, or on its way while its host is silent."""
        path = _path("sessions", session_id)
        answer = self._send("DELETE", path)
        return self.session(session_id) if answer.status_code == 204 else _read(answer, PublicSession)

    def terminate_matching(self, wanted: TerminateSessions) -> Terminated:
        return self._ask("POST", "/sessions/terminate", Terminated, body=wanted)

    def pause(self, session_id: str) -> PublicSession:
        return self._ask("POST", _path("sessions", session_id, "pause"), PublicSession)

    def resume(self, session_id: str) -> PublicSession:
        return self._ask("POST", _path("sessions", session_id, "resume"), PublicSession)

    def input(self, session_id: str, gesture: Gesture) -> InputDone:
        return self._ask("POST", _path("sessions", session_id, "input"), InputDone, body=gesture)

    def screenshot(self, session_id: str, wanted: ScreenshotQuery) -> Screenshot:
        answer = self._send("GET", _path("sessions", session_id, "screenshot"), query=wanted)
        sides = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", answer.headers.get("Screen-Size", ""))
        return Screenshot(answer.content, (int(sides[1]), int(sides[2])) if sides else None)

    def renew(self, session_id: str, wanted: RenewSession) -> PublicSession:
        return self._ask("POST", _path("sessions", session_id, "renew"), PublicSession, body=wanted)

    def set_labels(self, session_id: str, wanted: SetLabels) -> PublicSession:
        return self._ask("PUT", _path("sessions", session_id, "labels"), PublicSession, body=wanted)

    def history(self, session_id: str) -> History:
        return self._ask("GET", _path("sessions", session_id, "history"), History)

    def diagnosis(self, session_id: str) -> Diagnosis:
        return self._ask("GET", _path("sessions", session_id, "diagnosis"), Diagnosis)

    # --- who has keyboard and mouse ------------------------------------------------------------------

    def lease(self, session_id: str) -> LeaseAnswer:
        return self._ask("GET", _path("sessions", session_id, "lease"), LeaseAnswer)

    def change_lease(self, session_id: str, verb: LeaseVerb, wanted: BaseModel) -> LeaseAnswer:
        return self._ask("POST", _path("sessions", session_id, "lease", verb), LeaseAnswer, body=wanted)

    def withdraw_lease_request(self, session_id: str) -> None:
        self._send("DELETE", _path("sessions", session_id, "lease", "request"))

    # --- calls for a person --------------------------------------------------------------------------

    def help(self, session_id: str, *, wait_seconds: int = 0) -> HelpAnswer:
        asked = WaitQuery(wait_seconds=wait_seconds)
        return self._ask("GET", _path("sessions", session_id, "help"), HelpAnswer, query=asked)

    def ask_for_help(self, session_id: str, wanted: AskForHelp) -> PublicSession:
        return self._ask("PUT", _path("sessions", session_id, "help"), PublicSession, body=wanted)

    def end_help(self, session_id: str) -> PublicSession:
        return self._ask("DELETE", _path("sessions", session_id, "help"), PublicSession)

    # --- share links ---------------------------------------------------------------------------------

    def create_share(self, session_id: str, wanted: CreateShare) -> NewPublicShare:
        return self._ask("POST", _path("sessions", session_id, "shares"), NewPublicShare, body=wanted)

    def shares(self, session_id: str) -> ShareList:
        return self._ask("GET", _path("sessions", session_id, "shares"), ShareList)

    def revoke_share(self, session_id: str, share_id: str) -> None:
        self._send("DELETE", _path("sessions", session_id, "shares", share_id))

    # --- tasks and agents ----------------------------------------------------------------------------

    def streams(self, session_id: str) -> OpenStreams:
        return self._ask("GET", _path("sessions", session_id, "streams"), OpenStreams)

    def close_stream(self, session_id: str, stream_id: str) -> None:
        self._send("DELETE", _path("sessions", session_id, "streams", stream_id))

    def create_ticket(self, session_id: str, wanted: CreateTicket) -> PublicTicket:
        return self._ask("POST", _path("sessions", session_id, "tickets"), PublicTicket, body=wanted)

    def revoke_ticket(self, session_id: str, ticket_id: str) -> None:
        self._send("DELETE", _path("sessions", session_id, "tickets", ticket_id))

    def put_task(self, wanted: PutTask) -> PublicTask:
        return self._ask("POST", "/tasks", PublicTask, body=wanted)

    def tasks(self, asked: TaskQuery) -> TaskList:
        return self._ask("GET", "/tasks", TaskList, query=asked)

    def task(self, task_id: str) -> PublicTask:
        return self._ask("GET", f"{_path('tasks')}/{segment_of(task_id)}", PublicTask)

    def put_agent(self, wanted: PutAgent) -> PublicAgent:
        return self._ask("POST", "/agents", PublicAgent, body=wanted)

    def agents(self, asked: PageQuery) -> AgentList:
        return self._ask("GET", "/agents", AgentList, query=asked)

    def agent(self, agent_id: str) -> PublicAgent:
        return self._ask("GET", _path("agents", agent_id), PublicAgent)

    # --- documents -----------------------------------------------------------------------------------

    def put_document(self, wanted: PutDocument) -> PublicDocument:
        return self._ask("POST", "/documents", PublicDocument, body=wanted)

    def documents(self, asked: DocumentQuery) -> DocumentList:
        return self._ask("GET", "/documents", DocumentList, query=asked)

    def document(self, document_id: str) -> PublicDocument:
        return self._ask("GET", _path("documents", document_id), PublicDocument)

    def document_content(self, document_id: str) -> bytes:
        return self._send("GET", _path("documents", document_id, "content")).content

    def delete_document(self, document_id: str) -> None:
        self._send("DELETE", _path("documents", document_id))

    # --- webhooks ------------------------------------------------------------------------------------

    def webhooks(self) -> WebhookList:
        return self._ask("GET", "/webhooks", WebhookList)

    def create_webhook(self, wanted: CreateWebhook) -> WebhookWithSecret:
        return self._ask("POST", "/webhooks", WebhookWithSecret, body=wanted)

    def webhook(self, webhook_id: str) -> PublicWebhook:
        return self._ask("GET", _path("webhooks", webhook_id), PublicWebhook)

    def change_webhook(self, webhook_id: str, wanted: PatchWebhook) -> PublicWebhook:
        return self._ask("PATCH", _path("webhooks", webhook_id), PublicWebhook, body=wanted)

    def delete_webhook(self, webhook_id: str) -> None:
        self._send("DELETE", _path("webhooks", webhook_id))

    def rotate_webhook(self, webhook_id: str) -> WebhookWithSecret:
        return self._ask("POST", _path("webhooks", webhook_id, "rotate"), WebhookWithSecret)

    def try_webhook(self, webhook_id: str) -> PublicDelivery:
        return self._ask("POST", _path("webhooks", webhook_id, "test"), PublicDelivery)

    def deliveries(self, webhook_id: str, asked: DeliveryQuery) -> DeliveryList:
        return self._ask("GET", _path("webhooks", webhook_id, "deliveries"), DeliveryList, query=asked)

    def retry_delivery(self, webhook_id: str, delivery_id: str) -> PublicDelivery:
        return self._ask(
            "POST", _path("webhooks", webhook_id, "deliveries", delivery_id, "retry"), PublicDelivery
        )

    # --- the fleet -----------------------------------------------------------------------------------

    def hosts(self) -> HostList:
        return self._ask("GET", "/hosts", HostList)

    def drain(self, name: str, wanted: DrainHost) -> PublicHost:
        return self._ask("PUT", _path("hosts", name, "draining"), PublicHost, body=wanted)

    def images(self) -> Catalogue:
        return self._ask("GET", "/images", Catalogue)

    def me(self) -> Me:
        return self._ask("GET", "/me", Me)

    # --- the audit log -------------------------------------------------------------------------------

    def audit(self, asked: AuditQuery) -> AuditList:
        return self._ask("GET", "/audit", AuditList, query=asked)

    @contextlib.contextmanager
    def audit_file(self, asked: ExportQuery) -> Iterator[Iterator[bytes]]:
        """The file in parts, as they come. Raises also while it is read: one that is cut off is no file."""
        params = asked.model_dump(mode="json", exclude_defaults=True)
        try:
            with self._http.stream("GET", f"{_PREFIX}/audit/export", params=params) as answer:
                if not answer.is_success:
                    answer.read()
                self._check(answer)
                yield answer.iter_bytes()
        except httpx.TransportError as error:
            raise self._no_answer(error) from error

    # --- events of outside systems -------------------------------------------------------------------

    def webhook_secrets(self) -> WebhookSecretList:
        return self._ask("GET", "/webhook-secrets", WebhookSecretList)

    def create_webhook_secret(self, wanted: CreateWebhookSecret) -> NewWebhookSecret:
        return self._ask("POST", "/webhook-secrets", NewWebhookSecret, body=wanted)

    def rotate_webhook_secret(self, secret_id: str, wanted: RotateWebhookSecret) -> NewWebhookSecret:
        return self._ask("POST", _path("webhook-secrets", secret_id, "rotate"), NewWebhookSecret, body=wanted)

    def revoke_webhook_secret(self, secret_id: str) -> None:
        self._send("DELETE", _path("webhook-secrets", secret_id))

    @contextlib.contextmanager
    def event_lines(self, last_id: int | None) -> Iterator[Iterator[str]]:
        """The lines of one stream of events, without their ends. Raises also while it is read."""
        headers = {} if last_id is None else {"Last-Event-ID": str(last_id)}
        try:
            with self._http.stream(
                "GET", f"{_PREFIX}/events", headers=headers, timeout=_EVENTS_TIMEOUT
            ) as answer:
                if not answer.is_success:
                    answer.read()
                self._check(answer)
                yield answer.iter_lines()
        except httpx.TransportError as error:
            raise self._no_answer(error) from error

    # --- HTTP ----------------------------------------------------------------------------------------

    def _ask(
        self,
        method: str,
        path: str,
        model: type[_Answer],
        *,
        query: BaseModel | None = None,
        body: BaseModel | None = None,
        headers: dict[str, str] | None = None,
    ) -> _Answer:
        return _read(self._send(method, path, query=query, body=body, headers=headers), model)

    def _send(
        self,
        method: str,
        path: str,
        *,
        query: BaseModel | None = None,
        body: BaseModel | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        content = None if body is None else body.model_dump_json(exclude_unset=True, by_alias=True)
        sent = {**({} if content is None else {"Content-Type": "application/json"}), **(headers or {})}
        params = None if query is None else query.model_dump(mode="json", exclude_defaults=True)
        try:
            answer = self._http.request(
                method, f"{_PREFIX}{path}", content=content, params=params, headers=sent
            )
        except httpx.TransportError as error:
            raise self._no_answer(error) from error
        self._check(answer)
        return answer

    def _check(self, answer: httpx.Response) -> None:
        if answer.is_success:
            return
        if answer.is_redirect:
            raise Refused(f"{self.url} leads to {answer.headers.get('Location')}; give that address instead")
        raised = TryAgain if answer.status_code in (429, 502, 503, 504) else Refused
        raise raised(_sentence(answer))

    def _no_answer(self, error: httpx.TransportError) -> NoAnswer:
        return NoAnswer(f"{self.url} does not answer: {str(error) or type(error).__name__}")


def _path(*parts: str) -> str:
    """Below the prefix; an id may hold anything."""
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def _read(answer: httpx.Response, model: type[_Answer]) -> _Answer:
    """What a newer server says beyond the model is left out."""
    try:
        return model.model_validate_json(answer.content, extra="ignore")
    except ValidationError as error:
        place = answer.request.url
        raise Refused(
            f"what answers at {place} is no Deskfleet of this version; check DESKFLEET_URL"
        ) from error


def _sentence(answer: httpx.Response) -> str:
    try:
        return ProblemDocument.model_validate_json(answer.content, extra="ignore").detail
    except ValidationError:
        return f"{answer.request.url} answers {answer.status_code} and says no more"
