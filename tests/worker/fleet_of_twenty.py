"""Twenty agents at work behind the real edge, of which one needs a person: what the walk-through looks at.

Caddy, viewer, worker, relay, opensandbox-server and the containers are real. Stand-ins: a canned RFB server
is in each container; the pictures are those of Xtigervnc beside them, painted by the tests.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from tests.painted_desktop import PaintedDesktop
from tests.real_opensandbox import CANNED_BLANK, CANNED_DESKTOP, RealOpenSandbox
from tests.relay_process import RelayProcess
from tests.worker.edge import KEY, Edge, running_edge
from tests.worker.fleet import _image
from tests.x_recorder import Recorder
from viewer.documents import NewDocument
from viewer.model import DocumentType, Principal, Role, Session, Status
from viewer.passwords import Passwords
from viewer.people import NewPerson
from viewer.shares import Share
from viewer.work import NewTask

LOGIN, PASSWORD = "mara", "correct horse battery"
TASK, TITLE = "invoices-november", "Pay the invoices of November"
REASON = "The bank asks for the phone code"
OTHERS = ("checkout-tests", "price-watch", "release-42", "support-inbox")
SIZE = (1280, 800)
IMAGES = [_image("desktop", CANNED_DESKTOP), _image("blank", CANNED_BLANK)]
REPORT = """# Invoices of November

| to | amount | state |
|---|---:|---|
| Nordlicht Power | 1 204.80 | paid |
| Hafen Offices | 8 400.00 | paid |
| Brandt & Sons | 615.35 | **waits for the bank's code** |

Two of three are paid. The third one needs somebody with the phone.
"""


@dataclass(frozen=True)
class Twenty:
    """`calling` needs a person; `black` runs and shows nothing. `keys`: who notes what its user types."""

    edge: Edge
    calling: Session
    black: Session
    keys: Recorder

    @property
    def url(self) -> str:
        return self.edge.url

    def call_for_help(self) -> None:
        agent = Principal(id=f"key:{KEY.id}", tenant="main", role=Role.OPERATOR, via="key")
        self.edge.fleet.store.help("main").ask(self.calling.id, REASON, agent)

    def session(self) -> Session:
        """The one that calls, as it is now."""
        return self.edge.fleet.get(self.calling)

    def shares(self) -> Sequence[Share]:
        """All links of the tenant."""
        return self.edge.fleet.store.shares.page("main", None, 50).items

    def holder(self) -> str | None:
        """The name of whoever has keyboard and mouse of the desktop that calls."""
        lease = self.edge.fleet.store.leases.of(self.calling.id)
        return lease.holder.name if lease.holder else None


@contextmanager
def twenty_at_work(folder: Path, server: RealOpenSandbox, relay: RelayProcess) -> Iterator[Twenty]:
    enter = server.daemon.enter()
    with (
        ExitStack() as screens,
        running_edge(
            folder,
            server,
            relay,
            images=IMAGES,
            default_image="desktop",
            max_desktops=24,
            max_creates=6,
            create_deadline_seconds=120,
        ) as edge,
    ):
        painted, recorders = [], []
        for picture in (bank(), mail(), editor(), shop()):
            painted.append(desktop := screens.enter_context(PaintedDesktop(enter=enter)))
            desktop.paint(picture)
            # At once: an X server of another namespace may take the number for its own.
            recorders.append(recorder := Recorder(f":{desktop.display}"))
            screens.callback(recorder.close)
        sessions = _twenty_sessions(edge)
        black, calling = sessions[0], sessions[7]
        for at, session in enumerate(sessions):
            if session is not black:
                port = painted[0 if session is calling else 1 + at % 3].port
                edge.fleet.store.fleet.update(session.id, vnc_port=port, vnc_password_sealed=None)
        _mara(edge)
        _documents(edge, calling)
        yield Twenty(edge, edge.fleet.get(calling), edge.fleet.get(black), recorders[0])


def _twenty_sessions(edge: Edge) -> list[Session]:
    """Of five tasks, four each; every fourth of the first sixteen is of the task that the walk opens. The
    first shows nothing: the worker waits for 20 s before it says so."""
    edge.fleet.store.work("main").put_task(NewTask(id=TASK, title=TITLE, agent_id="ledger"))
    tasks = [*OTHERS[:3], TASK, *OTHERS[3:]]
    made = [
        edge.fleet.create(
            "desktop" if at else "blank", task_id=tasks[at % 4 if at < 16 else 4],
            agent_id="ledger" if at < 16 and at % 4 == 3 else f"agent-{at + 1:02}",
        )
        for at in range(20)
    ]  # fmt: skip
    return [edge.fleet.wait_for(one, Status.RUNNING, seconds=60) for one in made]


def _mara(edge: Edge) -> None:
    """An admin with a password."""
    people = edge.fleet.store.people("main")
    mara = people.add(NewPerson(login=LOGIN, name="Mara", role=Role.ADMIN), by="tests")
    edge.fleet.store.accounts.set_password_by_link(people.new_link(mara.id), Passwords().hash(PASSWORD))


def _documents(edge: Edge, calling: Session) -> None:
    chart = io.BytesIO()
    mail().resize((640, 400)).save(chart, "PNG")
    for title, kind, media_type, content in (
        ("Mails with invoices", DocumentType.IMAGE, "image/png", chart.getvalue()),
        ("payments.csv", DocumentType.TEXT, "text/plain", b"to;amount\nNordlicht Power;1204.80\n"),
        ("Report", DocumentType.MARKDOWN, "text/markdown", REPORT.encode()),
    ):
        edge.fleet.store.documents("main").put(
            NewDocument(
                title=title, type=kind, media_type=media_type, content=content, task_id=TASK,
                session_id=calling.id, created_by=f"key:{KEY.id}",
            )
        )  # fmt: skip


def bank() -> Image.Image:
    picture, draw = _browser("bank.example/confirm", "#f4f6fa")
    draw.rounded_rectangle((400, 210, 880, 600), 12, fill="#ffffff", outline="#d5dbe6")
    draw.text((440, 245), "Confirm this payment", fill="#141b2b", font_size=30)
    _lines(draw, 440, 305, ["Brandt & Sons", "615.35 EUR", "Invoice 2026-1107"], "#40506b")
    draw.text((440, 420), "The code that we sent to your phone", fill="#141b2b", font_size=19)
    for box in range(6):
        draw.rounded_rectangle((440 + box * 66, 455, 494 + box * 66, 515), 6, outline="#1f6feb", width=2)
    draw.rounded_rectangle((440, 540, 580, 580), 6, fill="#1f6feb")
    draw.text((475, 549), "Confirm", fill="#ffffff", font_size=18)
    return picture


def mail() -> Image.Image:
    picture, draw = _browser("mail.example/inbox", "#ffffff")
    draw.rectangle((60, 120, 280, 740), fill="#f0f3f8")
    _lines(draw, 84, 150, ["Inbox  12", "Sent", "Drafts  1", "Invoices  3"], "#40506b")
    for row, line in enumerate(
        ("Nordlicht Power    Your invoice of November", "Hafen Offices    Rent, November",
         "Brandt & Sons    Invoice 2026-1107", "Post Office    A parcel is on its way",
         "Calendar    Tomorrow: stocktaking")
    ):  # fmt: skip
        draw.text((310, 150 + row * 62), line, fill="#141b2b", font_size=19)
        draw.line((300, 192 + row * 62, 1200, 192 + row * 62), fill="#e3e8f0")
    return picture


def editor() -> Image.Image:
    picture = Image.new("RGB", SIZE, "#0d1117")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, 260, 800), fill="#161c26")
    _lines(draw, 24, 40, ["src", "  cart.py", "  prices.py", "tests", "  test_cart.py"], "#9fb0c9")
    _lines(
        draw, 300, 40,
        ["def total(cart: Cart) -> Money:", "    return sum(line.price for line in cart)", "",
         "def test_total_of_nothing():", "    assert total(Cart()) == 0", "", "", "$ pytest -q",
         "........................", "24 passed in 1.92 s"],
        "#8be9a8",
    )  # fmt: skip
    return picture


def shop() -> Image.Image:
    picture, draw = _browser("shop.example/lamps", "#ffffff")
    for at, colour in enumerate(("#e58a13", "#12693a", "#8957e5", "#1f6feb", "#b42318", "#40506b")):
        left, top = 110 + at % 3 * 360, 150 + at // 3 * 300
        draw.rounded_rectangle((left, top, left + 320, top + 190), 8, fill=colour)
        draw.text((left, top + 205), f"Lamp no. {at + 1}", fill="#141b2b", font_size=20)
        draw.text((left, top + 235), f"{19 + at * 7}.90 EUR", fill="#40506b", font_size=18)
    return picture


def _browser(address: str, ground: str) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.new("RGB", SIZE, "#27405f")
    draw = ImageDraw.Draw(picture)
    draw.rounded_rectangle((60, 40, 1220, 760), 10, fill=ground)
    draw.rounded_rectangle((60, 40, 1220, 100), 10, fill="#dde3ec")
    draw.rounded_rectangle((180, 54, 900, 86), 14, fill="#ffffff")
    draw.text((204, 60), address, fill="#40506b", font_size=17)
    draw.rectangle((0, 772, 1280, 800), fill="#10161f")
    return picture, draw


def _lines(draw: ImageDraw.ImageDraw, left: int, top: int, lines: Sequence[str], fill: str) -> None:
    for row, line in enumerate(lines):
        draw.text((left, top + row * 34), line, fill=fill, font_size=20)
