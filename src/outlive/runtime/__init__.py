"""The runtime: what makes decisions happen. It alone sees both the stores and the kinds."""
