"""Taking everything out of a hub and bringing it in again: ``hub backup``, ``hub restore``, ``hub move``.

All three are made of the store's ``dump`` and ``load``, so every keeper can read what
another one wrote.
"""
