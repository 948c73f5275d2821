"""`python -m jaxpu` is `jaxpu`."""

import sys

from jaxpu.cli.entry import main

if __name__ == "__main__":
    sys.exit(main())
