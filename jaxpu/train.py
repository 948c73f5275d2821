"""The one script for CPU, GPU and TPU: `python -m jaxpu.train CONFIG` is `jaxpu train CONFIG`."""

import sys

from jaxpu.cli.entry import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
