"""The forty tasks by our own operations. A program's unit file and its running are one operation here."""

from pyinfra.context import host

from roles.facts import STATE
from roles.files import Directory, absent, directories, place, system_user
from roles.packages import packages
from roles.units import Unit, run
from tests.rollout import work

directories(name="Shared directories", wanted=(Directory(STATE), Directory(f"{STATE}/stamps")))
packages(name="Package", names=(work.PACKAGE,))
for user in host.loop(work.USERS):  # type: ignore[no-untyped-call]
    system_user(name=f"User {user}", user=user, home=f"{work.ROOT}/{user}")
for folder in host.loop(work.FOLDERS):  # type: ignore[no-untyped-call]
    directories(
        name=f"Directory {folder.path}",
        wanted=(Directory(folder.path.rstrip("/"), folder.mode, folder.user, folder.user),),
    )
for text in host.loop((*work.FILES, *work.SECRETS)):  # type: ignore[no-untyped-call]
    place(name=f"File {text.path}", path=text.path, content=text.content, mode=text.mode, group=text.group)
absent(name="Old files", paths=(work.GONE,))
for program in host.loop(work.PROGRAMS):  # type: ignore[no-untyped-call]
    unit = Unit(
        name=program.name, description=program.name, command=("/bin/sleep", "infinity"), user=program.name
    )
    run(name=f"Run {program.name}", unit=unit, restart_on="1")
