"""Events out: every change of a session, sent to the addresses that its tenant named, as Standard Webhooks.

`store` writes a delivery for each event and endpoint, `deliverer` (a thread of the worker) sends them by
`sending`, which goes nowhere that `addresses` does not allow, and `model` says when the next attempt is.
"""
