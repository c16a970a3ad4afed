"""The operator's own services: not ours to start or to mend, but worth a word where one does not answer."""

from __future__ import annotations

from collections.abc import Iterator

from pyinfra.api.facts import FactBase
from pyinfra.context import host

from inventory.models import HostConfig, OwnService

_SECONDS = 3
_ANSWERS = "answers"


class Health(FactBase[str]):
    """Whether something answers 2xx on loopback of the host, or why not; never fails."""

    def command(self, port: int, path: str) -> str:
        # Asked before our own roles bring python3 to the host.
        return (
            f'if ! command -v python3 > /dev/null; then echo "{self.default()}, python3 is missing"; else\n'
            "python3 -c 'import sys, urllib.request as r\n"
            f'try: r.urlopen(sys.argv[1], timeout={_SECONDS}); print("{_ANSWERS}")\n'
            "except OSError as error: print(error)\n"
            'except Exception as error: print("it does not speak HTTP,", type(error).__name__)\n'
            f"' http://127.0.0.1:{port}{path}; fi"
        )

    @staticmethod
    def default() -> str:
        return "it could not be asked"

    def process(self, output: list[str]) -> str:
        return output[-1].strip() if output else self.default()


def silent_services(config: HostConfig) -> Iterator[str]:
    """A sentence for each own service of this host that has a `health` path and does not answer there now."""
    for service in config.site.services or ():
        if isinstance(service, OwnService) and service.host == config.name and service.health:
            said = host.get_fact(Health, port=service.port, path=service.health)
            if said != _ANSWERS:
                yield (
                    f"service {service.name} on {config.name} does not answer at"
                    f" 127.0.0.1:{service.port}{service.health}: {said}"
                )
