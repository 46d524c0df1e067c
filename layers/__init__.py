"""Lambda layers: what a function needs beside its own code, built from locked requirements.

Offline tooling of this repository; nothing of it is in the package.
"""
