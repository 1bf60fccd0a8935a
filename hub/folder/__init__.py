"""hub folder: keeps a folder of files the same on all of a person's devices, end-to-end encrypted.

Built on ``hub.client`` alone, as any app would be.  Two collections: ``files``
has one record a path, ``chunks`` holds the pieces of what is too large for one
record.  The promise: nothing a person wrote is ever lost.  What two devices
changed at once is merged when it is text that merges, and otherwise both
versions are kept as files.
"""

from __future__ import annotations

APP_ID = "org.sync-hub.folder"
