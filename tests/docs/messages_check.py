#!/usr/bin/env python3
"""Every message that docs/troubleshooting.md quotes is one that the sources hold.

    messages_check.py REPOSITORY
"""
import pathlib
import re
import sys


def sources(root):
    text = ""
    for folder in ("src", "apps"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".cpp", ".h"):
                text += path.read_text() + "\n"
    # Literals that follow one another are one.
    return re.sub(r'"\s*"', "", text.replace('\\"', "\x00")).replace("\x00", '"')


def quoted(page):
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.startswith("| `"):
            first = line.split(" | ")[0]
            for message in re.findall(r"`([^`]+)`", first):
                yield number, message


def main():
    root = pathlib.Path(sys.argv[1])
    page = root / "docs" / "troubleshooting.md"
    text = sources(root)
    count, missing = 0, []
    for number, message in quoted(page):
        count += 1
        for part in message.split("…"):
            if part.strip() and part.strip() not in text:
                missing.append(f"{page}:{number}: no source says '{part.strip()}' ({message})")
    print("\n".join(missing) or f"{count} messages")
    sys.exit(1 if missing or count < 20 else 0)


if __name__ == "__main__":
    main()
