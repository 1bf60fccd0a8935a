"""sync-hub: orders, keeps and forwards what it cannot read."""

__version__ = "0.1.0"
