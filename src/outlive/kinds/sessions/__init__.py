"""Sessions: what is kept (decisions.py), what a handler sees (visit.py), and the cookie."""
