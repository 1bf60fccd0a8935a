"""What a person calls their devices, without I/O: a collection of each space that is reserved for it.

Key: the device id in 32 hex digits.  Value: ``{name, since}``, 1 to 64 characters and
Unix seconds.  Sealed like everything, so the hub learns no name.
"""

from __future__ import annotations

DEVICES = "_devices"
NAME_CHARS_MAX = 64


def device_name(text: str) -> str:
    """The name without blanks around it.  Raises ``ValueError`` unless it has 1 to 64 characters."""
    name = text.strip()
    if not 1 <= len(name) <= NAME_CHARS_MAX:
        raise ValueError(f"a device's name has 1 to {NAME_CHARS_MAX} characters")
    return name
