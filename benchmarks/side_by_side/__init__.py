"""Preheat beside the servers that people choose today: ``make bench-peers``.

The same model, the same texts, the same CPUs and threads; fresh processes in interleaved rounds. It writes
docs/peers.md and docs/peers.svg, and the table in README.
"""
