"""``hub doctor``: tells what is wrong with a hub and the way to it, and what to do.

It asks the parts an operator has put together - settings, keys, disk, database, Redis,
mail, names, certificate, proxy - what a device or the hub would ask them, and changes
nothing.  ``inside`` is what this machine can tell, ``outside`` what a device meets on
its way in, ``report`` the words for it.
"""
