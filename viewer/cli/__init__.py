"""`deskfleet`: the API from a shell, as tables for people and as JSON for programs."""
