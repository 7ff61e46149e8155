"""docs/comparison.md."""

Row = dict


def write(found): ...
