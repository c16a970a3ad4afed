"""The relay with its eyes shut: what a browser sends goes on as it is. For the bench alone."""

from __future__ import annotations

from unittest.mock import patch

from viewer.relay import rfb_stream
from viewer.relay.main import main
from viewer.rfb.client_filter import ClientFilter


class Blind(ClientFilter):
    def feed(self, data: bytes) -> bytes:
        return data


if __name__ == "__main__":
    with patch.object(rfb_stream, "ClientFilter", Blind):
        main()
