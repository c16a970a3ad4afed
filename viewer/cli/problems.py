"""Why a command ends without having done what it was asked to."""

from __future__ import annotations


class CliError(Exception):
    """The text is one sentence for a person; `code` is what the program exits with."""

    code = 1


class Refused(CliError):
    """The fleet said no, or did not answer."""


class Misused(CliError):
    """The command line, the environment or the configuration cannot be used as it is."""

    code = 2
