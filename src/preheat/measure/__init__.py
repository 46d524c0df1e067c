"""Cold starts measured from outside: fresh processes, interleaved rounds, checked answers, intervals.

Offline only: the run time never imports this package. ``floor`` is a script of its own and imports nothing of
Preheat; its folder is on its path, so no module here may carry the name of another library's module.
"""
