"""Everything of ours that runs on the control host and beside the sandboxes.

Deliberately empty of imports: the relay is in this package too and needs neither Flask nor SQL.
"""

__version__ = "0.1.0"
