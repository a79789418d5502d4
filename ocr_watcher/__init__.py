"""ocr-watcher: drop an image into a folder; a JSON file with its text appears next to it.

Imports no library: `import ocr_watcher` must stay free, because `check-config` and `status` are
asked often and the OCR libraries take seconds to import. What it does do, before any of them can
be imported, is to tell them to keep to this machine.
"""

from ocr_watcher import privacy

__version__ = "0.1.0"

privacy.apply()
