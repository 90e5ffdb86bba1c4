#!/usr/bin/env python3
"""Seeds and regressions between text and bytes: `seeds.py plant TARGET FOLDER` fills a corpus from fuzz/seeds and
fuzz/regressions, `seeds.py show FILE` writes a finding as text, eight bytes a line. Never changes either of them."""

import pathlib
import sys

HOME = pathlib.Path(__file__).parent
RECORD_BYTES = 8


def read(text):
    """Two digits are a byte, what stands in quotation marks is text without blanks, `#` begins a comment."""
    found = bytearray()
    for line in text.splitlines():
        for word in [] if line.startswith("#") else line.split():
            found += word[1:-1].encode() if word.startswith('"') else bytes.fromhex(word)
    return bytes(found)


def plant(target, folder):
    corpus = pathlib.Path(folder)
    corpus.mkdir(parents=True, exist_ok=True)
    for folder in ("seeds", "regressions"):
        for path in sorted((HOME / folder / target).glob("*.txt")):
            (corpus / f"{folder}-{path.stem}").write_bytes(read(path.read_text()))


def show(path):
    found = pathlib.Path(path).read_bytes()
    for start in range(0, len(found), RECORD_BYTES):
        print(found[start : start + RECORD_BYTES].hex(" "))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["plant", target, folder]:
            plant(target, folder)
        case ["show", file]:
            show(file)
        case _:
            sys.exit("usage: seeds.py plant TARGET FOLDER | show FILE")
