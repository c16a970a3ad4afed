"""Machines of the tests' own: a dockerd apart from the machine's, and bare Debian hosts inside it."""
