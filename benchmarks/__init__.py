"""The figures that Preheat claims, measured on this machine: ``python -m benchmarks`` (``make bench``).

Fresh processes in interleaved rounds, so that all meet the same weather; medians, extremes and ratios of
medians, each held against the bound that the project sets itself, each with the command that gives it.
"""
