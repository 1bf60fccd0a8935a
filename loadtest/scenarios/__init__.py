"""What is measured, a module each: ``add_arguments(parser)`` and ``async def run(options) -> list[Figures]``.

``SHORT`` of a module, where it has one, is the command line of its part in the short sitting, and ``FULL`` that of the
full one, or several, one after the other; without, the sitting takes the module's defaults.
"""
