"""The images themselves: made as on a host, run hardened as sandboxes are, and looked at over RFB."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from roles.images import EXECD_IMAGE, SOURCES, server_of, source_hash
from tests.framebuffer import VNC_AUTH, Refused, dial, first_frame, log_in, offered_security
from tests.hosts.own_docker import OwnDocker, own_dockerd
from tests.image_host import PASSWORD, Desktop, eventually, lay_out, make_images, served_page
from tests.real_opensandbox import EXECD_IMAGE as TINY_EXECD
from tests.real_opensandbox import RealOpenSandbox
from tests.relay_process import free_port
from tests.small_registry import small_registry

# The first run of all makes the images, which takes minutes; later ones find them in the daemon's kept data.
pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def daemon() -> Iterator[OwnDocker]:
    with own_dockerd("images") as running:
        yield running


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="module")
def host(daemon: OwnDocker, store: Path) -> OwnDocker:
    """A Docker host that has the images, made there unless they are up to date already."""
    done = make_images(daemon, lay_out(store), "build", "desktop", "chrome", "execd")
    assert done.returncode == 0, done.stderr
    return daemon


@pytest.fixture
def desktop(host: OwnDocker) -> Iterator[Desktop]:
    running = Desktop.start(host, "deskfleet/desktop:latest")
    yield running
    running.remove()


@pytest.fixture
def chrome(host: OwnDocker) -> Iterator[Desktop]:
    running = Desktop.start(host, "deskfleet/chrome:latest")
    yield running
    running.remove()


@pytest.fixture
def opensandbox(host: OwnDocker, tmp_path: Path) -> Iterator[RealOpenSandbox]:
    server = WithOurExecd(host, tmp_path, free_port())
    server.start()
    yield server
    server.stop()
    server.remove_all()


class WithOurExecd(RealOpenSandbox):
    """The real server as a host has it: with the execd image that our role brings."""

    def _config(self) -> str:
        return super()._config().replace(TINY_EXECD, EXECD_IMAGE)


def read_host(directory: Path, environment: dict[str, str]) -> str:
    """The sources.list that this machine would give to its builds."""
    program = SOURCES / "read-host"
    subprocess.run(
        [program, directory], env={**os.environ, **environment}, check=True, capture_output=True, text=True
    )
    return (directory / "sources.list").read_text()


def label(host: OwnDocker, image: str, name: str) -> str:
    template = f'{{{{index .Config.Labels "{name}"}}}}'
    return host.docker("image", "inspect", "--format", template, image).stdout.strip()


# --- how they are made ---


@pytest.mark.parametrize("name", ["base", "desktop", "chrome", "execd-standin"])
def test_image_says_what_it_is_made_from_and_whose_it_is(host: OwnDocker, name: str) -> None:
    assert label(host, f"deskfleet/{name}", "org.deskfleet.source") == source_hash(name)
    assert label(host, f"deskfleet/{name}", "org.deskfleet.owned") == "true"


def test_second_run_makes_nothing(host: OwnDocker, store: Path) -> None:
    listing = ("image", "ls", "--no-trunc", "--format", "{{.Repository}} {{.ID}}")
    before = sorted(host.docker(*listing).stdout.splitlines())
    done = make_images(host, store / "sources" / "make-images", "build", "desktop", "chrome", "execd")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(host.docker(*listing).stdout.splitlines()) == before


def test_failed_build_leaves_the_old_image_and_says_one_sentence(host: OwnDocker, tmp_path: Path) -> None:
    before = host.docker("image", "inspect", "--format", "{{.Id}}", "deskfleet/chrome").stdout
    sources = tmp_path / "changed"
    shutil.copytree(SOURCES, sources)
    dockerfile = sources / "chrome" / "Dockerfile"
    dockerfile.write_text(dockerfile.read_text().replace("install chromium", "install no-such-browser"))
    done = make_images(host, lay_out(tmp_path, sources=sources), "build", "chrome")
    assert done.returncode == 1
    assert re.fullmatch(
        r"images: building chrome failed: E: .*no-such-browser; nothing was replaced, .*\n", done.stderr
    )
    assert host.docker("image", "inspect", "--format", "{{.Id}}", "deskfleet/chrome").stdout == before


def test_too_little_disk_is_said_before_anything_is_made(host: OwnDocker, tmp_path: Path) -> None:
    sources = tmp_path / "changed"
    shutil.copytree(SOURCES, sources)
    (sources / "base" / "packages").write_text("busybox-static\nca-certificates\nnano\n")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(small)], check=True)
    try:
        done = make_images(host, lay_out(small, sources=sources), "build", "desktop")
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert done.returncode == 1
    expected = (
        rf"images: making the images needs \d+ MB at {small}, but only \d+ MB are free; nothing was changed\n"
    )
    assert re.fullmatch(expected, done.stderr)


@pytest.fixture
def newer_chrome(host: OwnDocker, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """make-images of a version with another chrome image, and that image's hash; the real one comes back."""
    sources = tmp_path / "changed"
    shutil.copytree(SOURCES, sources)
    (sources / "chrome" / "rootfs" / "newer").touch()
    # Under a second name, or it would be cleared away as replaced.
    host.docker("tag", "deskfleet/chrome:latest", "kept-chrome:latest")
    yield lay_out(tmp_path, sources=sources), source_hash("chrome", sources=sources)
    host.docker("tag", "kept-chrome:latest", "deskfleet/chrome:latest")
    host.docker("image", "rm", "kept-chrome:latest")


def saved_image(host: OwnDocker, source: str) -> bytes:
    """A tiny image, labelled as made from `source`, as `docker save` writes it."""
    labelled = f"--label=org.deskfleet.source={source}"
    host.docker("build", "--tag=tiny:latest", labelled, "-", stdin="FROM deskfleet/execd-standin\n")
    saved = subprocess.run(["docker", "save", "tiny:latest"], env=host.env, check=True, capture_output=True)
    host.docker("image", "rm", "tiny:latest")
    return saved.stdout


def logged_in(folder: Path) -> dict[str, str]:
    """What the scripts are told of who pulls."""
    (folder / "login").mkdir()
    (folder / "login" / "password").write_text("hunter2")
    return {"LOGIN": str(folder / "login"), "REGISTRY_USER": "puller"}


def pull_own(host: OwnDocker, image: str, folder: Path) -> str:
    """Pull one of the operator's own images as a roll-out does; returns the note of it."""
    values = {**logged_in(folder), "SERVER": server_of(image), "IMAGE": image, "STAMP": "s"}
    notes = folder / "own"
    subprocess.run(
        host.enter("sh", "-c", Path("templates/own_images/pull.sh").read_text()),
        env={**host.env, **values, "NOTES": str(notes)}, check=True, capture_output=True,
    )  # fmt: skip
    return notes.read_text()


def test_registry_image_is_pulled_by_the_hash_of_its_sources_and_an_own_one_by_its_name(
    host: OwnDocker, newer_chrome: tuple[Path, str], tmp_path: Path
) -> None:
    """From a registry that wants to know who pulls."""
    program, source = newer_chrome
    saved, reference = saved_image(host, source), f"chrome:{source[:16]}"
    with small_registry(host, saved, reference, login="puller:hunter2") as registry:
        refused = make_images(host, program, "registry", "chrome", registry=registry)
        assert "pulling chrome failed: Error" in refused.stderr
        login = logged_in(tmp_path)
        done = make_images(
            host, program, "registry", "chrome", registry=registry, login={**login, "SERVER": registry}
        )
        own = pull_own(host, f"{registry}/{reference}", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert label(host, "deskfleet/chrome", "org.deskfleet.source") == source
    assert own.startswith("pulled ")
    host.docker("image", "rm", f"{registry}/{reference}")
    assert registry not in host.docker("image", "ls").stdout
    assert not Path(login["LOGIN"]).exists()
    assert "hunter2" not in done.stdout


def test_registry_image_of_other_sources_is_refused(host: OwnDocker, newer_chrome: tuple[Path, str]) -> None:
    program, source = newer_chrome
    with small_registry(host, saved_image(host, "other"), f"chrome:{source[:16]}") as registry:
        done = make_images(host, program, "registry", "chrome", registry=registry)
    assert done.returncode == 1
    assert "is not the image this version of Deskfleet asks for" in done.stderr
    assert label(host, "deskfleet/chrome", "org.deskfleet.source") == source_hash("chrome")


def test_silent_registry_is_said_in_one_sentence(host: OwnDocker, newer_chrome: tuple[Path, str]) -> None:
    program, _source = newer_chrome
    done = make_images(host, program, "registry", "chrome", registry="127.0.0.1:9/deskfleet")
    assert done.returncode == 1
    assert re.fullmatch(
        r"images: pulling chrome failed: .*connection refused.*; nothing was .*\n", done.stderr
    )


def test_images_name_no_package_server(host: OwnDocker) -> None:
    listing = "ls /etc/apt/sources.list /etc/apt/sources.list.d /etc/apt/apt.conf.d/90-host 2>/dev/null; true"
    found = host.docker("run", "--rm", "--entrypoint=sh", "deskfleet/chrome", "-c", listing).stdout
    assert found.strip() in ("", "/etc/apt/sources.list.d:")


def test_host_with_one_line_sources_gives_debians_main_and_no_third_party(tmp_path: Path) -> None:
    ours = read_host(tmp_path / "as-it-is", {}).splitlines()
    assert {line.split()[2] for line in ours} >= {"bookworm"}
    listed = tmp_path / "sources.list"
    listed.write_text("\n".join([*ours, "deb http://127.0.0.1:9/vendor bookworm main", ""]))
    (tmp_path / "lists").mkdir()
    own = tmp_path / "apt.conf"
    own.write_text(
        f'Dir::Etc::sourcelist "{listed}"; Dir::Etc::sourceparts "-"; Dir::State::lists "{tmp_path}/lists";'
    )
    assert read_host(tmp_path / "one-line", {"APT_CONFIG": str(own)}).splitlines() == ours


def test_host_without_debian_sources_is_told_so(tmp_path: Path) -> None:
    own = tmp_path / "apt.conf"
    own.write_text('Dir::Etc::sourcelist "/dev/null"; Dir::Etc::sourceparts "-";')
    with pytest.raises(subprocess.CalledProcessError) as raised:
        read_host(tmp_path / "host", {"APT_CONFIG": str(own)})
    assert raised.value.stderr == (
        "images: /etc/apt names no http source of Debian's main packages, so no image can be built here\n"
    )


# --- the desktop ---


def test_desktop_without_a_password_does_not_start(host: OwnDocker) -> None:
    done = host.docker("run", "--rm", "deskfleet/desktop", check=False)
    assert done.returncode == 64
    assert done.stderr.startswith("deskfleet-desktop: VNC_PASSWORD is empty or not set, and ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "size", ["12x", "x", "1280", "1280x800x2", "100x100", "99999x99999", "axb", "1280X800"]
)
def test_impossible_resolution_is_refused_in_one_sentence(host: OwnDocker, size: str) -> None:
    done = host.docker(
        "run", "--rm", "-e", "VNC_PASSWORD=x", "-e", f"RESOLUTION={size}", "deskfleet/desktop", check=False
    )
    assert done.returncode == 64
    assert done.stderr.startswith(f"deskfleet-desktop: RESOLUTION is '{size}', but must be WIDTHxHEIGHT")
    assert done.stderr.count("\n") == 1


def test_desktop_offers_password_logins_only(desktop: Desktop) -> None:
    connection, banner = dial(desktop.address, 8080)
    with connection:
        assert banner == b"RFB 003.008\n"
        assert offered_security(connection) == bytes([VNC_AUTH])


def test_wrong_passwords_let_nobody_in_and_lock_nobody_out(desktop: Desktop) -> None:
    for _ in range(8):
        connection, _banner = dial(desktop.address, 8080)
        with connection, pytest.raises(Refused):
            log_in(connection, "wrong")
    assert desktop.picture().width == 1280


@pytest.mark.parametrize(("width", "height"), [(1024, 768), (1280, 800), (1920, 1080)])
def test_first_picture_is_the_wallpaper_in_the_size_asked_for(
    host: OwnDocker, width: int, height: int
) -> None:
    desktop = Desktop.start(host, "deskfleet/desktop:latest", f"RESOLUTION={width}x{height}")
    try:
        picture = desktop.picture()
    finally:
        desktop.remove()
    assert (picture.width, picture.height) == (width, height)
    assert picture.colours() > 1000


def test_desktop_runs_as_a_user_without_rights(desktop: Desktop) -> None:
    desktop.picture()
    assert desktop.run("id -un; ps axo user= | sort -u") == "desk\ndesk"


def test_desktop_has_its_programs(desktop: Desktop) -> None:
    desktop.picture()
    assert eventually(
        lambda: {"xfwm4", "xfce4-panel", "xfdesktop"} <= set(desktop.run("ps axo comm=").split())
    )
    assert (
        desktop.run(
            "for p in firefox-esr xfce4-terminal thunar mousepad; do which $p >/dev/null || echo $p; done"
        )
        == ""
    )


def test_firefox_opens_a_window(desktop: Desktop) -> None:
    before = desktop.picture()
    desktop.daemon.docker(
        "exec", "--detach", "--env=DISPLAY=:1", desktop.container, "firefox-esr", "--kiosk", "about:license"
    )
    middle = (400 * 1280 + 1100) * 4
    assert before.bgrx[middle : middle + 3] != b"\xff\xff\xff"
    assert eventually(lambda: desktop.picture().bgrx[middle : middle + 3] == b"\xff\xff\xff", seconds=60)


def test_what_dies_is_started_again_and_leaves_no_zombie(desktop: Desktop) -> None:
    desktop.picture()
    programs = ("xfwm4", "xfce4-panel", "xfdesktop")
    assert eventually(lambda: set(programs) <= set(desktop.run("ps axo comm=").split()))
    before = {name: desktop.run(f"pidof {name}") for name in programs}
    desktop.run("kill -9 $(pidof xfwm4 xfce4-panel xfdesktop); sh -c 'sleep 0.1 &'")
    assert eventually(
        lambda: all(desktop.run(f"pidof {name} || true") not in ("", before[name]) for name in programs)
    )
    assert eventually(lambda: "Z" not in desktop.run("ps axo stat="), seconds=5)


def test_container_ends_with_xvncs_exit_code(desktop: Desktop) -> None:
    desktop.picture()
    desktop.run("kill -9 $(pidof Xtigervnc)")
    assert eventually(
        lambda: desktop.inspect("{{.State.Status}} {{.State.ExitCode}}") == "exited 137", seconds=5
    )


def test_desktop_ends_at_once_when_asked_to(desktop: Desktop) -> None:
    desktop.picture()
    begun = time.monotonic()
    desktop.daemon.docker("stop", "--time=10", desktop.container)
    assert time.monotonic() - begun < 5
    assert desktop.inspect("{{.State.ExitCode}}") == "0"


# --- what it starts with ---


def test_desktop_starts_with_what_it_was_asked_for(host: OwnDocker) -> None:
    with served_page(host) as page:
        desktop = Desktop.start(
            host, "deskfleet/desktop:latest",
            f"OPEN_URL={page.url}", "LANG=de_DE.UTF-8", "KEYBOARD=ch(fr)", "TZ=Asia/Tokyo",
            "OPEN_COMMAND=echo $DISPLAY $(date -d 2026-03-01 +%B) >>ran; echo said; exit 3",
        )  # fmt: skip
        try:
            desktop.picture()
            assert eventually(lambda: "ran" in desktop.run("ls").split())
            assert re.search(r"layout: +ch\nvariant: +fr$", desktop.run("setxkbmap -query"))
            assert desktop.run("date +%Z; locale charmap; date -d 2026-03-01 +%B") == "JST\nUTF-8\nMärz"
            assert eventually(lambda: page.languages != [], seconds=60)
            assert page.languages[0].startswith("de-DE,de;")
            # Not restarted, as what belongs to the desktop is.
            assert desktop.run("cat ran") == ":1 März"
            assert desktop.run("grep -x said /tmp/desktop.*/session.log") == "said"
            assert desktop.log() == []
        finally:
            desktop.remove()


def test_what_cannot_be_used_is_said_and_hinders_nothing(host: OwnDocker) -> None:
    desktop = Desktop.start(
        host, "deskfleet/desktop:latest",
        "OPEN_URL=file:///etc/passwd", "LANG=../../home.UTF-8", "KEYBOARD=zz", "TZ=\x1b/no\nzone",
    )  # fmt: skip
    try:
        assert desktop.picture().colours() > 1000
        assert eventually(lambda: "xfce4-panel" in desktop.run("ps axo comm=").split())
        assert sorted(desktop.log()) == [
            "deskfleet-desktop: KEYBOARD 'zz' is ignored: it is no keyboard layout of this image.",
            "deskfleet-desktop: LANG '../../home.UTF-8' is ignored: it is no locale of this image "
            "(ls /usr/share/deskfleet/locales).",
            "deskfleet-desktop: OPEN_URL 'file:///etc/passwd' is ignored: it is no http or https URL.",
            "deskfleet-desktop: TZ '/nozone' is ignored: it is no time zone of this image.",
        ]
        assert desktop.run("ps axo comm= | grep -c firefox || true") == "0"
    finally:
        desktop.remove()


@pytest.mark.parametrize("separator", [(), ("--",)])
def test_a_program_runs_once_beside_the_desktop(host: OwnDocker, separator: tuple[str, ...]) -> None:
    program = ("sh", "-c", 'echo "$0 $(id -un) $DISPLAY"; exit 3', "two words")
    desktop = Desktop.start(host, "deskfleet/desktop:latest", program=(*separator, *program))
    try:
        assert eventually(
            lambda: desktop.log() == ["two words desk :1", "deskfleet-desktop: sh ended with code 3"]
        )
        assert desktop.picture().colours() > 1000
        assert eventually(lambda: "xfwm4" in desktop.run("ps axo comm=").split())
    finally:
        desktop.remove()


# --- chrome ---


def test_chrome_opens_the_url_in_place_of_its_start_page(host: OwnDocker) -> None:
    with served_page(host) as page:
        chrome = Desktop.start(host, "deskfleet/chrome:latest", f"OPEN_URL={page.url}", "LANG=pt_BR.UTF-8")
        try:
            assert eventually(lambda: page.languages != [], seconds=60)
            assert page.languages[0].startswith("pt-BR,pt;")
            tabs = httpx.get(f"http://{chrome.address}:9222/json/list", timeout=5, trust_env=False).json()
            assert [tab["url"] for tab in tabs if tab["type"] == "page"] == [page.url]
            assert "firefox" not in chrome.run("ps axo comm=")
        finally:
            chrome.remove()


def test_chromium_answers_devtools_through_its_forwarder_only(chrome: Desktop) -> None:
    def titles(port: int) -> list[str]:
        try:
            answer = httpx.get(f"http://{chrome.address}:{port}/json/list", timeout=5, trust_env=False)
        except httpx.TransportError:
            return []
        return [page["title"] for page in answer.json()]

    assert eventually(lambda: "Chromium" in titles(9222), seconds=60)
    assert titles(9223) == []


def test_closed_chromium_comes_back(chrome: Desktop) -> None:
    def version() -> str:
        try:
            answer = httpx.get(f"http://{chrome.address}:9222/json/version", timeout=5, trust_env=False)
        except httpx.TransportError:
            return ""
        return str(answer.json()["webSocketDebuggerUrl"])

    assert eventually(lambda: version() != "", seconds=60)
    before = version()
    chrome.run("pkill -9 -x chromium")
    assert eventually(lambda: version() not in ("", before), seconds=60)


# --- with the real opensandbox-server ---


def create(opensandbox: RealOpenSandbox, image: str) -> str:
    answer = httpx.post(
        f"{opensandbox.url}/v1/sandboxes",
        headers={"OPEN-SANDBOX-API-KEY": opensandbox.key},
        json={
            "image": {"uri": image},
            "entrypoint": ["/usr/local/bin/deskfleet-desktop"],
            "resourceLimits": {"cpu": "2", "memory": "2Gi"},
            "timeout": 600,
            "env": {"VNC_PASSWORD": PASSWORD, "RESOLUTION": "1280x800"},
        },
        timeout=60,
        trust_env=False,
    )
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def endpoint(opensandbox: RealOpenSandbox, sandbox: str, port: int) -> str:
    """`port/path` of an endpoint; the address before it is the host's business."""
    answer = httpx.get(
        f"{opensandbox.url}/v1/sandboxes/{sandbox}/endpoints/{port}",
        headers={"OPEN-SANDBOX-API-KEY": opensandbox.key},
        trust_env=False,
    )
    return str(answer.json()["endpoint"]).split(":", 1)[1]


def test_real_server_makes_a_desktop_with_our_execd(opensandbox: RealOpenSandbox) -> None:
    begun = time.monotonic()
    sandbox = create(opensandbox, "deskfleet/desktop:latest")
    created = time.monotonic()
    picture = first_frame(opensandbox.publish_address, int(endpoint(opensandbox, sandbox, 8080)), PASSWORD)
    print(f"create {created - begun:.2f} s, first frame {time.monotonic() - begun:.2f} s after the request")
    assert picture.colours() > 1000


def test_execd_standin_answers_ping_and_says_what_it_cannot_do(opensandbox: RealOpenSandbox) -> None:
    sandbox = create(opensandbox, "deskfleet/desktop:latest")
    url = f"http://{opensandbox.publish_address}:{endpoint(opensandbox, sandbox, 44772).split('/')[0]}"
    with httpx.Client(base_url=url, trust_env=False) as client:

        def pings() -> bool:
            try:
                return client.get("/ping").status_code == 200
            except httpx.TransportError:
                return False

        assert eventually(pings)
        answer = client.post("/command", json={"command": "true" * 10000})
        assert answer.status_code == 404
        assert "can run no commands" in answer.json()["message"]
