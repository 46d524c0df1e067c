"""SnapStart, rehearsed on this machine: AWS's own runtime client is initialised once and cloned many times.

A snapshot is played by the raw fork system call: like a restored virtual machine, and unlike ``os.fork``, a
clone is not told that it is one, so that nothing reseeds itself.
"""
