"""`python -m outlive.commands`: the command line where no script is installed."""

import sys

from outlive.commands import main

if __name__ == "__main__":
    sys.exit(main())
