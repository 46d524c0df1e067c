"""Sentence embeddings with all-MiniLM-L6-v2: POST /v1/embeddings, as OpenAI's clients send it.

Build its artifact with ``make embed``; then ``preheat serve functions/embed/app.py``.
"""

from preheat import Function

function = Function(__file__)
handler, app = function.handler, function.app
