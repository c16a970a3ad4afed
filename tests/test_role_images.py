"""What the images role sends to a host, from what the host is said to have."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from pyinfra.api.exceptions import OperationError
from pyinfra.api.facts import FactBase

from roles.images import (
    HOST_PACKAGES,
    SOURCES,
    UPSTREAM_EXECD,
    ImageSources,
    Source,
    archive,
    images,
    source_hash,
    stale,
    upstream_hash,
)
from tests.role_runner import RunRole, run_role

__all__ = ["run_role"]

STEP = "Images | Bring the desktops' images up to date"
UP_TO_DATE = {
    "deskfleet/desktop": source_hash("desktop"),
    "deskfleet/chrome": source_hash("chrome"),
    "deskfleet/execd": source_hash("execd-standin"),
}
BUILD = "/var/lib/deskfleet/images/sources/make-images"


@pytest.fixture
def changed_sources(tmp_path: Path) -> Path:
    """A copy of templates/images to change things in."""
    return Path(shutil.copytree(SOURCES, tmp_path / "images"))


def test_fresh_host_gets_the_files_and_builds_from_them(run_role: RunRole) -> None:
    ((name, commands),) = run_role(images, facts={ImageSources: {}})
    assert name == STEP
    assert commands[0] == "mkdir -p /var/lib/deskfleet/images"
    assert commands[1][:2] == ("put", "/var/lib/deskfleet/images/sources.tar")
    assert commands[2:] == [
        "rm -rf /var/lib/deskfleet/images/sources && mkdir /var/lib/deskfleet/images/sources",
        "tar --extract --no-same-owner --file=/var/lib/deskfleet/images/sources.tar "
        "--directory=/var/lib/deskfleet/images/sources",
        f"env REGISTRY= EXECD={UPSTREAM_EXECD} {BUILD} auto desktop chrome execd",
    ]


def test_host_that_has_all_images_is_left_alone(run_role: RunRole) -> None:
    assert run_role(images, facts={ImageSources: UP_TO_DATE}) == [(STEP, [])]


def test_only_the_image_that_differs_is_made_again(run_role: RunRole) -> None:
    facts: dict[type[FactBase[Any]], Any] = {ImageSources: {**UP_TO_DATE, "deskfleet/chrome": "of-yesterday"}}
    ((_, commands),) = run_role(images, source="build", facts=facts)
    assert commands[-1] == f"env REGISTRY= EXECD={UPSTREAM_EXECD} {BUILD} build chrome"


def test_a_registry_is_named_to_the_host(run_role: RunRole) -> None:
    arguments: dict[str, Any] = {
        "source": "registry",
        "registry": "registry.example.com/deskfleet",
        "names": ("desktop",),
    }
    ((_, commands),) = run_role(images, facts={ImageSources: {}}, **arguments)
    expected = (
        f"env REGISTRY=registry.example.com/deskfleet EXECD={UPSTREAM_EXECD} {BUILD} registry desktop execd"
    )
    assert commands[-1] == expected


def test_a_registry_setting_cannot_run_commands(run_role: RunRole) -> None:
    ((_, commands),) = run_role(images, facts={ImageSources: {}}, registry="x; reboot")
    assert "'REGISTRY=x; reboot'" in commands[-1]


def test_registry_source_without_a_registry_is_refused(run_role: RunRole) -> None:
    with pytest.raises(OperationError, match=r"no registry is given; set images\.registry"):
        run_role(images, source="registry", facts={ImageSources: {}})


def test_unknown_image_is_refused_with_the_known_ones(run_role: RunRole) -> None:
    with pytest.raises(OperationError, match="no image is called 'firefox'; there are desktop, chrome"):
        run_role(images, names=("firefox",), facts={ImageSources: {}})


def test_removal_takes_our_images_by_name_and_the_files(run_role: RunRole) -> None:
    ((_, commands),) = run_role(images, present=False, facts={ImageSources: UP_TO_DATE})
    assert commands == [
        "docker image rm --force deskfleet/chrome:latest deskfleet/desktop:latest deskfleet/execd:latest",
        "docker image prune --force --filter label=org.deskfleet.owned=true",
        "rm -rf /var/lib/deskfleet/images",
    ]


def test_removal_where_nothing_is_ours_changes_nothing(run_role: RunRole) -> None:
    assert run_role(images, present=False, facts={ImageSources: {}}) == [
        ("Images | Remove Deskfleet's images", [])
    ]


def test_unstated_fact_is_an_error(run_role: RunRole) -> None:
    with pytest.raises(LookupError, match="ImageSources"):
        run_role(images, facts={})


def test_fact_reads_labels_and_passes_over_foreign_names() -> None:
    output = [
        "deskfleet/desktop:latest 0123",
        "deskfleet/execd-standin:latest deskfleet/execd:latest 4567",
        "deskfleet/chrome:old 89ab",
        "somebody/else:latest ",
    ]
    assert ImageSources().process(output) == {
        "deskfleet/desktop": "0123",
        "deskfleet/execd-standin": "4567",
        "deskfleet/execd": "4567",
    }


@pytest.mark.parametrize(
    ("execd", "source", "is_fine"),
    [
        (source_hash("execd-standin"), "build", True),
        (source_hash("execd-standin"), "auto", True),
        (source_hash("execd-standin"), "registry", False),
        (upstream_hash(UPSTREAM_EXECD), "auto", True),
        (upstream_hash(UPSTREAM_EXECD), "registry", True),
        (upstream_hash("opensandbox/execd:v0"), "auto", False),
        (upstream_hash(UPSTREAM_EXECD), "build", False),
    ],
)
def test_execd_may_be_upstreams_or_ours_as_the_source_allows(
    execd: str, source: Source, is_fine: bool
) -> None:
    present = {**UP_TO_DATE, "deskfleet/execd": execd}
    found = stale(present, names=("desktop",), source=source, upstream_execd=UPSTREAM_EXECD)
    assert found == (() if is_fine else ("execd",))


@pytest.mark.parametrize(
    ("file", "touched"),
    [
        ("base/packages", {"base", "desktop", "chrome", "execd-standin"}),
        ("base/release", {"base", "desktop", "chrome", "execd-standin"}),
        ("shared/install", {"base", "desktop", "chrome", "execd-standin"}),
        ("desktop/Dockerfile", {"desktop", "chrome"}),
        ("desktop/rootfs/usr/share/deskfleet/wallpaper.svg", {"desktop", "chrome"}),
        ("chrome/Dockerfile", {"chrome"}),
        ("execd-standin/bootstrap.sh", {"execd-standin"}),
        ("make-images", set()),
    ],
)
def test_a_changed_file_makes_exactly_what_is_built_on_it_stale(
    changed_sources: Path, file: str, touched: set[str]
) -> None:
    (changed_sources / file).write_text("changed")
    names = ("base", "desktop", "chrome", "execd-standin")
    assert {
        name for name in names if source_hash(name, sources=changed_sources) != source_hash(name)
    } == touched


def test_losing_the_executable_bit_counts_as_a_change(changed_sources: Path) -> None:
    (changed_sources / "execd-standin" / "bootstrap.sh").chmod(0o644)
    assert source_hash("execd-standin", sources=changed_sources) != source_hash("execd-standin")


def test_the_archive_is_the_same_for_the_same_files_and_brings_the_hashes(changed_sources: Path) -> None:
    (changed_sources / "make-images").touch()
    packed = archive(upstream_execd=UPSTREAM_EXECD)
    assert packed == archive(upstream_execd=UPSTREAM_EXECD, sources=changed_sources)
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        hashes = tar.extractfile("hashes")
        assert hashes is not None
        assert f"desktop {source_hash('desktop')}\n" in hashes.read().decode()
        assert tar.getmember("make-images").mode == 0o755


def test_the_package_that_builds_the_base_is_among_the_hosts_packages() -> None:
    assert "mmdebstrap" in HOST_PACKAGES
