"""The relay: an asyncio program beside the desktops that joins an authorised WebSocket to an RFB server."""
