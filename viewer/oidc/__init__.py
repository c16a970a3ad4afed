"""Sign-in through an OpenID provider: Authorization Code with PKCE, and rules that say who is whose.

`failures` says what can go wrong, in words for people. `attempts` is what a browser keeps between its start
and its way back. `tokens` and `rules` are pure: what of the provider's words is believed, and who that makes
somebody here (`arrivals`; `people` in the database). `provider` is the one that speaks to it, `routes` what a
browser sees of all this.
"""
