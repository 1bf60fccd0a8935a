"""The operator's commands: ``hub admin``, and the way from a terminal to the hub it operates."""
