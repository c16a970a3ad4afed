"""A real OpenID provider in a process of its own: npm's `oidc-provider`."""
