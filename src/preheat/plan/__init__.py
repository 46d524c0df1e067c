"""``preheat plan``: what each way to run a function would give for a traffic, and would cost, by simulation.

A discrete-event simulation of scale-to-zero platforms, fed by what was measured of the artifact. Its
autoscaler is the one that ``preheat up`` runs.
"""
