"""`python -m ocr_watcher` is the command line program."""

import sys

from ocr_watcher.cli import main

if __name__ == "__main__":
    sys.exit(main())
