"""The JavaScript client in a real browser, against the real hub."""
