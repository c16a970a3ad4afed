"""The relay's captures of a real Xtigervnc."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageStat

from tests.painted_desktop import PaintedDesktop, _picture
from tests.relay_process import RelayProcess, running_relay, running_xvnc
from tests.wanted_pictures import one
from viewer.relay.answers import Picture, PictureResult
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


def test_a_thumbnail_is_small_and_looks_like_the_screen(relay: RelayProcess, desktop: PaintedDesktop) -> None:
    thumbnail = shown(one(relay, desktop.port, width=320))
    assert thumbnail.size == (320, 200)
    expected = _picture(*desktop.size).resize((320, 200), Image.Resampling.BOX)
    assert max(ImageStat.Stat(ImageChops.difference(thumbnail, expected)).mean) < 4


def test_a_picture_that_the_asker_has_does_not_travel(relay: RelayProcess, desktop: PaintedDesktop) -> None:
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
