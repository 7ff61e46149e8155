"""The HTTP face: bare ASGI over the application object.

Start at `asgi.py`; the rules are in docs/http.md.
"""
