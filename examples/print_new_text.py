#!/usr/bin/env python3
"""Print the text of every image as its sidecar appears: `print_new_text.py inbox`.

Needs the standard library only. Sidecars appear whole, by a rename, so whatever can be opened can be parsed.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def main(inbox: Path) -> None:
    """Look every second for sidecars not seen before."""
    seen = set(inbox.rglob("*.json"))
    while True:
        for path in sorted(set(inbox.rglob("*.json")) - seen):
            seen.add(path)
            record = json.loads(path.read_text("utf-8"))
            if record.get("schema") != "ocr-watcher/1":
                continue  # somebody else's
            name = record["source"]["name"]
            if record["status"] == "ok":
                print(f"== {name}\n{record['text']}", flush=True)
            else:
                print(f"== {name}: {record['error']['message']}", file=sys.stderr, flush=True)
        time.sleep(1)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "inbox"))
