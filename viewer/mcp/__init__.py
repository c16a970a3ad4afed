"""Tools for agents: an MCP server over stdio, which knows the API alone."""
