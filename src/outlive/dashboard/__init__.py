"""The dashboard: plain pages, rendered here, readable without JavaScript. Start at `pages.py`."""
