"""Idempotency keys: what is kept (decisions.py), and when two requests are the same."""
