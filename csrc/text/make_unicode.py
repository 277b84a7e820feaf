"""Write unicode_data.inc: runs of code points with the same class, from Python's unicodedata.

Run with a Python whose unicodedata is version 15.1.0 (3.13); this is the version that llama.cpp's tables have, and
ids can only be equal where the classes are. White space is the property White_Space, not category Z.
"""

from __future__ import annotations

import pathlib
import sys
import unicodedata

VERSION = "15.1.0"
WHITE_SPACE = {*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F}
WHITE_SPACE.add(0x3000)
NAMES = {"L": "LETTER", "N": "NUMBER", "M": "MARK", "P": "PUNCTUATION", "S": "SYMBOL"}


def class_of(code_point: int) -> str:
    """The name, in unicode.h, of the class of one code point."""
    if code_point in WHITE_SPACE:
        return "SPACE"
    return NAMES.get(unicodedata.category(chr(code_point))[0], "OTHER")


def runs() -> list[tuple[int, str]]:
    """(first code point, class) of every run, ascending."""
    found: list[tuple[int, str]] = []
    for code_point in range(0x110000):
        name = class_of(code_point)
        if not found or found[-1][1] != name:
            found.append((code_point, name))
    return found


def main() -> None:
    if unicodedata.unidata_version != VERSION:
        sys.exit(f"make_unicode.py: unicodedata {unicodedata.unidata_version}; needs {VERSION} (Python 3.13)")
    lines = [f"// Made by make_unicode.py from Unicode {VERSION}: {{first code point of a run, its class}}."]
    line = ""
    for first, name in runs():
        entry = f"{{0x{first:X}, {name}}},"
        if len(line) + len(entry) + 1 > 120:
            lines.append(line)
            line = ""
        line += (" " if line else "") + entry
    lines.append(line)
    pathlib.Path(__file__).with_name("unicode_data.inc").write_text("\n".join(lines) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
