"""Artifacts into a store and out of it, and what their aliases name. Offline: no server imports this."""
