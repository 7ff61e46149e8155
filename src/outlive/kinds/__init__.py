"""The kinds of state: one noun each.

A kind is pure: it decides, and never reads, writes or asks the time.
"""
