"""What a site runs: chosen by services and skills, completed by requirements, refused in one sentence."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from inventory import catalogue
from inventory.catalogue import (
    IMAGES,
    CatalogueError,
    Service,
    images_of,
    services_of,
    services_on,
    stack_of,
)
from inventory.catalogue.__main__ import table
from inventory.models import Group, Settings, Site
from inventory.site_file import SiteRefused, load_site
from tests.sites import FLEET, fleet_config, fleet_site

LOCAL: dict[str, Any] = {
    "hosts": {"here": {"groups": ["edge", "control", "sandboxes", "desktops"], "connect": "@fake/here"}}
}
OWN = {"name": "code-server", "host": "here", "port": 8443}
FLEET_HOSTS = {
    name: {"groups": groups, "connect": f"@fake/{name}", "address": address}
    for name, (address, groups) in FLEET.items()
}


CRM: dict[str, Any] = {"uri": "registry.example.com/crm:1", "entrypoint": ["/start"], "cpu": "500m"}
JOBS: dict[str, Any] = {"uri": "registry.example.com/jobs:1", "entrypoint": ["/start"], "display": "none"}
K8S: dict[str, Any] = {
    "k8s": {"url": "https://k8s.example.com/opensandbox", "key": "K8S_KEY", "memory": "1Gi"},
}  # fmt: skip


def pools(*entries: dict[str, Any], cpu: int | None = None, **more: Any) -> dict[str, Any]:
    """A site of one host and an external server, with own images and these pools."""
    here = {**LOCAL["hosts"]["here"], **({"cpu": cpu} if cpu else {})}
    settings = {"images": {"own": {"crm": CRM, "jobs": JOBS}}, "pools": entries}
    return {"hosts": {"here": here}, "external": K8S, "settings": settings, **more}


def site(**changes: Any) -> Site:
    return Site.model_validate({**LOCAL, **changes})


def names(chosen: Site) -> list[str]:
    return [service.name for service in stack_of(chosen)]


def why(chosen: Site) -> dict[str, str]:
    return {service.name: service.why for service in stack_of(chosen)}


def refused(chosen: Site) -> tuple[str, str]:
    with pytest.raises(CatalogueError) as error:
        stack_of(chosen)
    return error.value.key, error.value.sentence


def test_site_that_chooses_nothing_gets_all_that_its_hosts_can_carry() -> None:
    assert names(site()) == ["viewer", "relay", "hostwatch", "opensandbox", "chrome", "kasmvnc"]
    boxes = {"here": {"groups": ["edge", "control", "sandboxes"], "connect": "@fake/here"}}
    assert names(site(hosts=boxes)) == ["viewer", "relay", "hostwatch", "opensandbox", "chrome"]
    desktops = {"here": {"groups": ["edge", "control", "desktops"], "connect": "@fake/here"}}
    assert names(site(hosts=desktops)) == ["viewer", "relay", "kasmvnc"]


def test_service_of_ones_own_adds_to_all_there_is() -> None:
    assert names(site(services=[OWN])) == [
        "viewer",
        "relay",
        "hostwatch",
        "opensandbox",
        "chrome",
        "kasmvnc",
        "code-server",
    ]


def test_named_service_brings_what_it_requires_and_nothing_else() -> None:
    assert why(site(services=["opensandbox"])) == {
        "viewer": "always", "relay": "always", "hostwatch": "needed by opensandbox",
        "opensandbox": "services",
    }  # fmt: skip


def test_requirements_are_resolved_through_each_other() -> None:
    chosen = why(site(services=["chrome"]))
    assert chosen["chrome"] == "services"
    assert chosen["opensandbox"] == "needed by chrome"


def test_each_service_comes_after_what_it_requires() -> None:
    for chosen in (site(), site(services=["chrome", "kasmvnc"]), fleet_site()):
        seen: set[str] = set()
        for service in stack_of(chosen):
            assert set(service.requires) <= seen
            seen.add(service.name)


@pytest.mark.parametrize(
    ("skill", "service"), [("code", "opensandbox"), ("browser", "chrome"), ("desktop-use", "kasmvnc")]
)
def test_skill_pack_brings_in_its_service(skill: str, service: str) -> None:
    chosen = why(site(services=["opensandbox"], skills=[skill]))
    assert chosen[service] in {f"skill {skill}", "services"}
    if service != "opensandbox":
        assert service not in names(site(services=["opensandbox"]))


def test_skill_code_alone_is_a_stack() -> None:
    assert why(site(skills=["code"])) == {
        "viewer": "always", "relay": "always", "hostwatch": "needed by opensandbox",
        "opensandbox": "skill code",
    }  # fmt: skip


def test_every_skill_names_services_that_there_are() -> None:
    known = {service.name for service in services_of(Settings())}
    assert all(set(services) <= known for services in catalogue.SKILLS.values())


def test_kasmvnc_desktop_brings_kasmvnc_in_and_a_tigervnc_one_does_not() -> None:
    def with_desktop(backend: str) -> Site:
        desktop = {"tenant": "main", "host": "here", "backend": backend}
        return site(services=["opensandbox"], desktops={"studio": desktop})

    assert why(with_desktop("kasmvnc"))["kasmvnc"] == "desktop studio"
    assert why(with_desktop("kasmvnc-or-tigervnc"))["kasmvnc"] == "desktop studio"
    assert "kasmvnc" not in why(with_desktop("tigervnc"))


def test_services_run_on_the_hosts_of_their_group() -> None:
    assert {service.name: service.hosts for service in stack_of(fleet_site())} == {
        "viewer": ("control1",),
        "relay": ("box1", "box2", "studio1"),
        "hostwatch": ("box1", "box2"),
        "opensandbox": ("box1", "box2"),
        "kasmvnc": ("studio1",),
        "code-server": ("box2",),
    }
    assert [service.name for service in services_on(fleet_config("box2"))] == [
        "relay", "hostwatch", "opensandbox", "code-server",
    ]  # fmt: skip


def test_seeds_websocket_services_carry_the_flag() -> None:
    flags = {service.name: service.websocket for service in services_of(Settings())}
    assert flags == {
        "viewer": False, "relay": True, "hostwatch": False, "opensandbox": True, "chrome": True,
        "kasmvnc": True,
    }  # fmt: skip


def test_chrome_image_is_offered_with_service_chrome_only() -> None:
    assert [image.name for image in images_of(site())] == ["desktop", "chrome"]
    assert [image.name for image in images_of(site(services=["opensandbox"]))] == ["desktop"]
    desktops = {"here": {"groups": ["edge", "control", "desktops"], "connect": "@fake/here"}}
    assert images_of(site(hosts=desktops)) == ()
    assert "service" not in IMAGES[0].model_dump()


def test_own_images_join_the_catalogue_where_sandboxes_are_made() -> None:
    chosen = site(settings={"default_image": "crm", "images": {"own": {"crm": CRM, "jobs": JOBS}}})
    assert [(image.name, image.is_own) for image in images_of(chosen)] == [
        ("desktop", False), ("chrome", False), ("crm", True), ("jobs", True),
    ]  # fmt: skip
    elsewhere = {
        "hosts": {"here": {**LOCAL["hosts"]["here"], "groups": ["edge", "control", "desktops"]}},
        "external": K8S,
        "settings": {"default_image": "jobs", "images": {"own": {"jobs": JOBS}}},
    }
    assert [image.name for image in images_of(site(**elsewhere))] == ["jobs"]


def test_pools_that_fit_exactly_are_taken() -> None:
    fits = pools(
        {"image": "desktop", "size": 2},
        {"image": "jobs", "size": 4, "memory": "256Mi", "hosts": ["k8s"]},
        cpu=4,
    )
    assert stack_of(site(**fits))


@pytest.mark.parametrize(
    ("changes", "key", "sentence"),
    [
        (
            {"services": ["opensandbox", "opensandbx"]},
            "services.1",
            "unknown service 'opensandbx', did you mean 'opensandbox'?",
        ),
        (
            {"services": ["zzz"]},
            "services.0",
            "unknown service 'zzz'; there are: viewer, relay, hostwatch, opensandbox, chrome, kasmvnc",
        ),
        ({"skills": ["cod"]}, "skills.0", "unknown skill 'cod', did you mean 'code'?"),
        (
            {"services": ["kasmvnc"]},
            "hosts.here.groups",
            "the group 'sandboxes' is there for 'opensandbox', which is not chosen;"
            " add it to services, or take the group away",
        ),
        (
            {"services": []},
            "hosts.here.groups",
            "the group 'sandboxes' is there for 'opensandbox', which is not chosen;"
            " add it to services, or take the group away",
        ),
        (
            {"services": [{**OWN, "name": "viewer"}]},
            "services.0.name",
            "'viewer' is a service of ours; give yours another name",
        ),
        (
            {"services": ["opensandbox", {**OWN, "host": "hear"}]},
            "services.1.host",
            "unknown host 'hear', did you mean 'here'?",
        ),
        (
            {"services": [{**OWN, "tenant": "mian"}]},
            "services.0.tenant",
            "unknown tenant 'mian', did you mean 'main'?",
        ),
        (
            {"services": [{**OWN, "port": 8060}]},
            "services.0.port",
            "port 8060 on host 'here' belongs to 'viewer'; give 'code-server' another",
        ),
        (
            {"services": [OWN, {**OWN, "name": "grafana"}]},
            "services.1.port",
            "port 8443 on host 'here' belongs to 'code-server'; give 'grafana' another",
        ),
        (
            {"services": [{**OWN, "port": 8088}]},
            "services.0.port",
            "port 8088 on host 'here' belongs to the edge; give 'code-server' another",
        ),
        (
            {"services": [{**OWN, "port": 80}], "settings": {"domain": "a.example.com", "tls": "internal"}},
            "services.0.port",
            "port 80 on host 'here' belongs to the edge; give 'code-server' another",
        ),
        (
            {"services": [{**OWN, "port": 40123}]},
            "services.0.port",
            "port 40123 on host 'here' lies in the sandboxes' range 40000-40999; give 'code-server' another",
        ),
        (
            {"services": [{**OWN, "name": "content"}]},
            "services.0.name",
            "the name 'content.deskfleet.localhost' belongs to the content domain; give the service another",
        ),
        (
            {
                "settings": {
                    "domain": f"{'a' * 63}.{'b' * 63}.{'c' * 50}.{'d' * 40}.example.com",
                    "tls": "internal",
                }
            },
            "settings.content_domain",
            "is too long: names of sessions below it exceed 253",
        ),
        (
            {"services": ["opensandbox"], "settings": {"default_image": "chrome"}},
            "settings.default_image",
            "image 'chrome' comes with service 'chrome'; add it to services",
        ),
        (
            {"settings": {"default_image": "dekstop"}},
            "settings.default_image",
            "unknown image 'dekstop', did you mean 'desktop'?",
        ),
        (
            {"settings": {"images": {"own": {"desktop": CRM}}}},
            "settings.images.own.desktop",
            "is the name of an image of ours; give yours another",
        ),
        (
            {"settings": {"default_image": "jobs", "images": {"own": {"jobs": JOBS}}}},
            "settings.default_image",
            "image 'jobs' has no display, and who asks for nothing in particular gets a desktop; name an"
            " image with one",
        ),
        (
            {"external": K8S, "settings": {"images": {"any": False}}},
            "external.k8s",
            "takes images without a display alone, and there is none; add one to settings.images.own, or set"
            " settings.images.any: true",
        ),
        (
            {
                "hosts": {"here": {**LOCAL["hosts"]["here"], "groups": ["edge", "control", "desktops"]}},
                "external": K8S,
            },
            "settings.default_image",
            "image 'desktop' is none for external servers, which are all that takes sandboxes here; name one"
            " of settings.images.own with display: none",
        ),
        (
            pools({"image": "chrom", "size": 1}),
            "settings.pools.0.image",
            "unknown image 'chrom', did you mean 'chrome'?",
        ),
        (
            pools({"image": "chrome", "size": 1}, services=["opensandbox"]),
            "settings.pools.0.image",
            "image 'chrome' comes with service 'chrome'; add it to services",
        ),
        (
            pools({"image": "desktop", "size": 1, "hosts": ["hear"]}),
            "settings.pools.0.hosts",
            "unknown sandbox host 'hear', did you mean 'here'?",
        ),
        (
            pools({"image": "desktop", "size": 1, "hosts": ["here", "here"]}),
            "settings.pools.0.hosts",
            "names 'here' twice; keep one",
        ),
        (
            pools({"image": "crm", "size": 1, "hosts": ["k8s"]}),
            "settings.pools.0.hosts",
            "'k8s' is an external server, which takes images without a display alone; take it out",
        ),
        (
            pools({"image": "jobs", "size": 1, "resolution": "800x600"}),
            "settings.pools.0.resolution",
            "image 'jobs' has no display; remove it",
        ),
        (
            pools({"image": "desktop", "size": 2}, {"image": "desktop", "size": 3, "cpu": "2000m"}),
            "settings.pools.1",
            "is the same as settings.pools.0 on 'here'; give one of them the sum",
        ),
        (
            pools({"image": "desktop", "size": 5}, {"image": "chrome", "size": 4}),
            "settings.pools.1",
            "all pools on 'here' together need max_desktops: 9, and it has 8; make them smaller",
        ),
        (
            pools({"image": "desktop", "size": 2}, {"image": "crm", "size": 1}, cpu=4),
            "settings.pools.1",
            "all pools on 'here' together need cpu: 4.5, and it has 4; make them smaller",
        ),
        (
            pools({"image": "jobs", "size": 3, "memory": "600Mi", "hosts": ["k8s"]}),
            "settings.pools.0",
            "all pools on 'k8s' together need memory: 1800Mi, and it has 1024Mi; make them smaller",
        ),
    ],
)
def test_what_cannot_run_is_refused_where_it_is_written(
    changes: dict[str, Any], key: str, sentence: str
) -> None:
    assert refused(site(**changes)) == (key, sentence)


def test_name_of_a_service_that_dns_could_not_hold_is_refused() -> None:
    domain = f"{'a' * 63}.{'b' * 63}.{'c' * 63}.{'d' * 50}.com"
    long = {"domain": domain, "tls": "internal", "content_domain": "none"}
    key, sentence = refused(site(services=[OWN], settings=long))
    assert key == "settings.domain"
    length = len(domain) + len("opensandbox.")
    assert sentence.endswith(f"has {length} characters; at most 253 are allowed")


def test_service_whose_group_no_host_has_is_refused_with_who_chose_it() -> None:
    boxes = {"here": {"groups": ["edge", "control", "sandboxes"], "connect": "@fake/here"}}
    assert refused(site(hosts=boxes, services=["opensandbox", "kasmvnc"])) == (
        "services.1",
        "'kasmvnc' (services) runs on hosts with the group 'desktops', and no host has it",
    )
    desktops = {"here": {"groups": ["edge", "control", "desktops"], "connect": "@fake/here"}}
    assert refused(site(hosts=desktops, skills=["browser"])) == (
        "skills.0",
        "'hostwatch' (needed by opensandbox) runs on hosts with the group 'sandboxes', and no host has it",
    )


def test_services_that_exclude_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_conflict(settings: Settings) -> tuple[Service, ...]:
        other = Service(name="other", groups=(Group.CONTROL,), port=9000, conflicts=("kasmvnc",))
        return (*services_of(settings), other)

    monkeypatch.setattr(catalogue, "services_of", with_conflict)
    assert refused(site(services=["opensandbox", "kasmvnc", "other"])) == (
        "services.2",
        "'other' (services) and 'kasmvnc' (services) cannot run together; leave one of them out",
    )
    assert "other" in names(site(services=["opensandbox", "other"]))


def test_service_on_loopback_may_have_the_port_of_the_node() -> None:
    """The node listens on the fleet address: tests/test_caddy_fleet.py runs both at once."""
    own = {**OWN, "host": "studio1", "port": 8443}
    chosen = Site.model_validate(
        {"hosts": FLEET_HOSTS, "settings": {"domain": "a.example.com", "tls": "internal"}, "services": [own]}
    )
    assert chosen.settings.ports.node == 8443
    assert "code-server" in names(chosen)


def test_port_is_free_on_a_host_where_its_owner_does_not_run() -> None:
    own = {**OWN, "host": "studio1", "port": 8060}
    chosen = Site.model_validate(
        {"hosts": FLEET_HOSTS, "settings": {"domain": "a.example.com", "tls": "internal"}, "services": [own]}
    )
    assert "code-server" in names(chosen)


def test_site_file_says_where_the_mistake_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "acme.yml"
    file.write_text(yaml.safe_dump({**LOCAL, "skills": ["cod"]}))
    with pytest.raises(
        SiteRefused, match=r"^acme\.yml:skills\.0: unknown skill 'cod', did you mean 'code'\?$"
    ):
        load_site(file)


def test_catalogue_prints_as_a_table() -> None:
    lines = table(fleet_site()).splitlines()
    assert lines[0].split() == [
        "name",
        "host",
        "port",
        "websocket",
        "address",
        "role",
        "requires",
        "chosen",
        "by",
    ]
    rows = {line.split()[0]: re.split(r"  +", line) for line in lines[1:]}
    assert rows["code-server"] == [
        "code-server", "box2", "8090", "yes", "https://code-server.desks.example.com", "operator of acme",
        "viewer", "services",
    ]  # fmt: skip
    assert rows["kasmvnc"][4] == "https://<desktop>.content.desks.example.com"
    assert rows["relay"][1] == "box1, box2, studio1"


def test_command_prints_the_site_or_the_sentence_that_refuses_it(tmp_path: Path) -> None:
    def command(data: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        file = tmp_path / "acme.yml"
        file.write_text(yaml.safe_dump(data))
        return subprocess.run(
            [sys.executable, "-m", "inventory.catalogue", str(file)],
            capture_output=True,
            text=True,
            check=False,
        )

    good = command(LOCAL)
    assert (good.returncode, good.stderr) == (0, "")
    assert "opensandbox.deskfleet.localhost:8088" in good.stdout
    bad = command({**LOCAL, "services": ["kasmvn"]})
    assert (bad.returncode, bad.stdout) == (1, "")
    assert bad.stderr.endswith("acme.yml:services.0: unknown service 'kasmvn', did you mean 'kasmvnc'?\n")
