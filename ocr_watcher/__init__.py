"""ocr-watcher: drop an image into a folder; a JSON file with its text appears next to it.

Imports nothing: `import ocr_watcher` must stay free, because `check-config` and `status` are
asked often and the OCR libraries take seconds to import.
"""

__version__ = "0.1.0"
