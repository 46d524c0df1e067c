"""What kind of file is this? Google's magika model, by content alone.

Build its artifact with ``make filetype``; then ``preheat serve functions/filetype/app.py``.
"""

from preheat import Function

function = Function(__file__)
handler, app = function.handler, function.app
