"""The forty tasks as an Ansible playbook: one task each, none of them in a loop, no facts gathered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.rollout import work

SETTINGS = """\
[defaults]
forks = 10
gathering = explicit
interpreter_python = /usr/bin/python3
[ssh_connection]
pipelining = True
"""


def write_playbook(folder: Path) -> Path:
    """Write playbook, templates and ansible.cfg into `folder`; return the playbook."""
    (folder / "ansible.cfg").write_text(SETTINGS)
    for text in work.FILES:
        (folder / f"{Path(text.path).name}.j2").write_text(text.content)
    for program in work.PROGRAMS:
        (folder / f"{program.name}.service.j2").write_text(program.text)
    path = folder / "playbook.yml"
    plays = [{"hosts": "all", "gather_facts": False, "tasks": tasks()}]
    path.write_text(yaml.safe_dump(plays, sort_keys=False))
    return path


def tasks() -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = [{"ansible.builtin.apt": {"name": work.PACKAGE, "state": "present"}}]
    made += [
        {"ansible.builtin.user": {"name": user, "system": True, "create_home": False,
                                  "home": f"{work.ROOT}/{user}", "shell": "/usr/sbin/nologin"}}
        for user in work.USERS
    ]  # fmt: skip
    made += [
        {"ansible.builtin.file": {"path": one.path.rstrip("/"), "state": "directory", "mode": f"0{one.mode}",
                                  "owner": one.user, "group": one.user}}
        for one in work.FOLDERS
    ]  # fmt: skip
    made += [
        {"ansible.builtin.template": {"src": f"{Path(one.path).name}.j2", "dest": one.path,
                                      "mode": f"0{one.mode}", "owner": "root", "group": one.group}}
        for one in work.FILES
    ]  # fmt: skip
    made += [
        {"ansible.builtin.copy": {"content": one.content, "dest": one.path, "mode": f"0{one.mode}",
                                  "owner": "root", "group": one.group}, "no_log": True}
        for one in work.SECRETS
    ]  # fmt: skip
    made.append({"ansible.builtin.file": {"path": work.GONE, "state": "absent"}})
    for program in work.PROGRAMS:
        made += _runs(program)
    return made


def _runs(program: work.Program) -> list[dict[str, Any]]:
    file = program.name.replace("-", "_")
    unit = {"src": f"{program.name}.service.j2", "dest": program.path, "mode": "0644"}
    running = {
        "name": program.name,
        "enabled": True,
        "daemon_reload": f"{{{{ {file}.changed }}}}",
        "state": f"{{{{ 'restarted' if {file}.changed else 'started' }}}}",
    }
    return [{"ansible.builtin.template": unit, "register": file}, {"ansible.builtin.systemd": running}]
