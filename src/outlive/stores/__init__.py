"""The ways of keeping the promises of `store.py`: a module for each place where state can lie."""
