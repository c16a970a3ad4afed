"""The only file of a site that pyinfra reads: the site named by DESKFLEET_SITE as pyinfra's groups.

Every public list of this module is a group to pyinfra, so all else starts with an underscore.
"""

from __future__ import annotations

from inventory.groups import groups_of as _groups_of

edge, control, sandboxes, desktops = _groups_of()
