"""Load tests that tell cold from warm: scenarios as data, sent by locust from a process of its own.

Offline only. ``loadtests/`` sends and imports nothing of this; here scenarios become schedules, answers
become samples, samples figures, and figures pages and verdicts.
"""
