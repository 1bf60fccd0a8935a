"""What crosses the wire: messages, their bytes, and the header of a sealed change."""
