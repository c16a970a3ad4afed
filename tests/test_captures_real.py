"""The relay's captures of a real Xtigervnc."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from PIL import Image, ImageChops, ImageStat
from pydantic import SecretStr

from tests.painted_desktop import PaintedDesktop, _picture
from tests.relay_process import PUBLISH_ADDRESS, RelayProcess, running_relay, running_xvnc
from tests.test_relay_content import relay_at, studio_at
from tests.wanted_pictures import one
from viewer.grants import DesktopSocket, PublishedPort
from viewer.relay.answers import CloseCode, Picture, PictureResult, ProbeOutcome
from viewer.rfb import encodings
from viewer.rfb.conversation import Conversation
from viewer.rfb.watching_client import Watched, watch

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    # The painted desktop listens there.
    with running_relay(tmp_path_factory.mktemp("relay"), publish_address="127.0.0.1") as process:
        yield process
    assert "Traceback" not in process.log.read_text()


def see(port: int, offered: tuple[int, ...]) -> Image.Image:
    """What a server shows to a client that offers it only these."""
    server = Watched()
    conversation = Conversation(watch(None, server, offered))
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(conversation.opening())
        while not server.updates:
            was_ready = server.is_ready
            reply = conversation.feed(b"" if conversation.behind else connection.recv(1 << 16))
            if server.is_ready and not was_ready:
                reply += server.ask_for_changes()
            connection.sendall(reply)
    return server.framebuffer.image


@pytest.fixture(scope="module")
def desktop() -> Iterator[PaintedDesktop]:
    with PaintedDesktop() as painted:
        yield painted


def shown(picture: Picture) -> Image.Image:
    assert picture.data is not None, picture.detail
    return Image.open(BytesIO(picture.data)).convert("RGB")


def test_a_png_is_the_screen_to_the_pixel(relay: RelayProcess, desktop: PaintedDesktop) -> None:
    picture = one(relay, desktop.port, format="png")
    assert picture.result is PictureResult.NEW
    assert (picture.screen_width, picture.screen_height) == desktop.size
    assert ImageChops.difference(shown(picture), _picture(*desktop.size)).getbbox() is None


@pytest.mark.parametrize("encoding", [encodings.RAW, encodings.TIGHT, encodings.ZRLE])
def test_each_encoding_of_a_real_server_is_exact(desktop: PaintedDesktop, encoding: int) -> None:
    seen = see(desktop.port, (encodings.COPY_RECT, encoding, encodings.LAST_RECT))
    assert ImageChops.difference(seen, _picture(*desktop.size)).getbbox() is None


def test_a_real_servers_jpegs_are_close(desktop: PaintedDesktop) -> None:
    noise = Image.merge("RGB", [Image.effect_noise((64, 40), 60).resize((640, 400)) for _ in "RGB"])
    desktop.paint(noise)
    best_quality = -23
    seen = see(desktop.port, (encodings.TIGHT, encodings.LAST_RECT, best_quality)).crop((0, 0, 640, 400))
    desktop.repaint()
    difference = ImageChops.difference(seen, noise)
    assert difference.getbbox() is not None, "these were no JPEGs"
    assert max(ImageStat.Stat(difference).mean) < 3


def catch_up(relay: RelayProcess, desktop: PaintedDesktop) -> None:
    """A thumbnail may be a second old, and then of what another test has painted; a PNG is of this moment."""
    one(relay, desktop.port, format="png")


def test_a_thumbnail_is_small_and_looks_like_the_screen(relay: RelayProcess, desktop: PaintedDesktop) -> None:
    catch_up(relay, desktop)
    thumbnail = shown(one(relay, desktop.port, width=320))
    assert thumbnail.size == (320, 200)
    expected = _picture(*desktop.size).resize((320, 200), Image.Resampling.BOX)
    assert max(ImageStat.Stat(ImageChops.difference(thumbnail, expected)).mean) < 4


def test_a_picture_that_the_asker_has_does_not_travel(relay: RelayProcess, desktop: PaintedDesktop) -> None:
    catch_up(relay, desktop)
    first = one(relay, desktop.port, width=320)
    again = one(relay, desktop.port, width=320, etag=first.etag)
    assert (again.result, again.data, again.etag) == (PictureResult.SAME, None, first.etag)
    desktop.paint(Image.new("RGB", (400, 300), "#ff0000"))
    after = one(relay, desktop.port, format="png")
    assert after.changed_at is not None
    assert first.changed_at is not None
    assert after.changed_at > first.changed_at
    assert shown(after).getpixel((10, 10)) == (255, 0, 0)
    assert one(relay, desktop.port, width=320, etag=first.etag).result is PictureResult.NEW
    desktop.repaint()
    one(relay, desktop.port, format="png")
    assert one(relay, desktop.port, width=320, etag=first.etag).result is PictureResult.SAME


def test_the_wrong_password_and_a_closed_port_say_why(relay: RelayProcess, tmp_path: Path) -> None:
    with running_relay(tmp_path) as other, running_xvnc(tmp_path, password="secret12", pattern=True) as xvnc:
        assert one(other, xvnc.port, password="secret12").result is PictureResult.NEW
        wrong = one(other, xvnc.port, session_id="s2", password="wrong")
        assert wrong.result is PictureResult.NONE
        assert "refused the login" in wrong.detail
        assert "secret12" not in other.log.read_text()
    gone = one(relay, xvnc.port, session_id="s3")
    assert gone.result is PictureResult.NONE
    assert "cannot be reached" in gone.detail


def test_thumbnails_even_of_photos_are_small(relay: RelayProcess, desktop: PaintedDesktop) -> None:
    photo = Image.merge("RGB", [Image.effect_noise((320, 200), 60).resize((1280, 800)) for _ in "RGB"])
    desktop.paint(photo)
    one(relay, desktop.port, format="png")
    thumbnail = one(relay, desktop.port, width=320)
    desktop.repaint()
    assert len(thumbnail.data or b"") <= 12 << 10


def test_a_picture_of_megabytes_arrives(relay: RelayProcess, desktop: PaintedDesktop) -> None:
    desktop.paint(Image.merge("RGB", [Image.effect_noise((1280, 800), 90) for _ in "RGB"]))
    picture = one(relay, desktop.port, format="png")
    desktop.repaint()
    assert len(picture.data or b"") > 2 << 20


def test_packed_pictures_are_as_exact(desktop: PaintedDesktop, tmp_path: Path) -> None:
    with running_relay(tmp_path, publish_address="127.0.0.1", capture_encodings="packed") as packed:
        picture = one(packed, desktop.port, format="png")
    assert ImageChops.difference(shown(picture), _picture(*desktop.size)).getbbox() is None


def test_a_capture_is_nobody_who_watches_and_ends_with_its_session(
    relay: RelayProcess, desktop: PaintedDesktop
) -> None:
    assert one(relay, desktop.port, session_id="ends").result is PictureResult.NEW
    with closing(relay.client()) as client:
        listed = client.stream_list()
        assert (listed.streams, listed.ports_used) == ([], {})
    mine = connections_to(desktop.port)
    assert mine >= 1
    url = f"{relay.url}/streams/ends?code={CloseCode.ENDED}&reason=over"
    assert httpx.delete(url, headers=relay.grant("manage", session_id="ends", target=None)).status_code == 204
    deadline = time.monotonic() + 5
    while connections_to(desktop.port) >= mine:
        assert time.monotonic() < deadline, "the capture still has its connection"
        time.sleep(0.01)


def test_whoever_saw_the_first_frame_shows_the_first_thumbnail(tmp_path: Path) -> None:
    with (
        running_relay(tmp_path) as relay,
        running_xvnc(tmp_path, pattern=True, geometry="1280x800", password="secret12") as xvnc,
        closing(relay.client()) as client,
    ):
        password, target = SecretStr("secret12"), PublishedPort(port=xvnc.port)
        seen = client.probe("s1", target, password, tenant_id="t1")
        assert (seen.result, seen.width) == (ProbeOutcome.FRAME, 1280)
        (its_own,) = local_ports_to(xvnc.port)
        assert one(relay, xvnc.port, password="secret12", width=320).result is PictureResult.NEW
        assert local_ports_to(xvnc.port) == {its_own}
        # A probe that names no tenant has a connection of its own, which ends with it.
        assert client.probe("s1", target, password).result is ProbeOutcome.FRAME
        deadline = time.monotonic() + 5
        while local_ports_to(xvnc.port) != {its_own}:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def local_ports_to(port: int) -> set[str]:
    """Which connections these are, told by their other ends."""
    wanted = f":{port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {row[1] for row in rows if row[2].endswith(wanted) and row[3] == "01"}


def connections_to(port: int) -> int:
    """Established TCP connections of this machine to that port, from /proc/net/tcp."""
    return len(local_ports_to(port))


def test_a_capture_follows_a_desktop_to_another_size(relay: RelayProcess, tmp_path: Path) -> None:
    with running_relay(tmp_path) as other, running_xvnc(tmp_path, pattern=True) as xvnc:
        assert one(other, xvnc.port).screen_width == 640
        resize(xvnc.port, 800, 600)
        deadline = time.monotonic() + 5
        while (picture := one(other, xvnc.port, format="png")).screen_width != 800:
            assert time.monotonic() < deadline, picture
        assert shown(picture).size == (800, 600)


def resize(port: int, width: int, height: int) -> None:
    """As a person's viewer does."""
    server = Watched()
    conversation = Conversation(watch(None, server, (encodings.EXTENDED_DESKTOP_SIZE, encodings.RAW)))
    screen = struct.pack(">IHHHHI", 0, 0, 0, width, height, 0)
    with socket.create_connection((PUBLISH_ADDRESS, port), timeout=10) as connection:
        connection.sendall(conversation.opening())
        while server.framebuffer.width != width:
            was_ready = server.is_ready
            reply = conversation.feed(b"" if conversation.behind else connection.recv(1 << 16))
            if server.is_ready and not was_ready:
                reply += server.ask_for_changes()
                reply += struct.pack(">BxHHBx", 251, width, height, 1) + screen + server.ask_for_changes()
            connection.sendall(reply)


def test_a_capture_takes_little_memory(tmp_path: Path) -> None:
    with running_relay(tmp_path) as relay, running_xvnc(tmp_path, geometry="1280x800", pattern=True) as xvnc:
        # What is loaded at the first picture is not a session's.
        one(relay, xvnc.port, session_id="first", format="png")
        before = relay.resident_bytes()
        for number in range(8):
            one(relay, xvnc.port, session_id=f"s{number}", format="png")
            one(relay, xvnc.port, session_id=f"s{number}", width=320)
        assert (relay.resident_bytes() - before) / 8 < 14 << 20


def test_kasmvnc_is_seen_by_its_owners_screenshots(tmp_path: Path) -> None:
    with relay_at(tmp_path) as relay, studio_at(tmp_path, size=(1600, 900)) as studio:
        target = DesktopSocket(name="studio")
        picture = one(relay, target)
        assert (picture.result, picture.screen_width, picture.screen_height) == ("new", 1600, 900)
        small = one(relay, target, width=320)
        assert shown(small).size == (320, 180)
        assert shown(one(relay, target, format="png")).size == (1600, 900)
        assert one(relay, target, width=320, etag=small.etag).result is PictureResult.SAME
        assert studio.fake.blacklist.failures == {}
        assert one(relay, target, tenant_id="t2", session_id="s2").result is PictureResult.NONE


def test_a_kasmvnc_that_has_painted_nothing_says_so(tmp_path: Path) -> None:
    with relay_at(tmp_path) as relay, studio_at(tmp_path, screen_after=60):
        assert one(relay, DesktopSocket(name="studio")).detail == "the desktop has painted nothing yet"
