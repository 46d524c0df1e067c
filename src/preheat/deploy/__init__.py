"""Deployment, told from what the build measured: what will not fit, what it costs, and a template.

Offline only: the run time never imports this package.
"""
