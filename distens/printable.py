"""Text for terminals and logs: characters that would act there, or hide, are shown as escapes."""

from __future__ import annotations

import unicodedata


def printable(text: str, keep: str = "") -> str:
    r"""Return the text with every character escaped that is not shown as itself: `\x1b`, `\u202e`, `\n`.

    These are control characters, marks that change the direction of writing, characters of no width, and surrogates.
    A name in a file of a stranger may hold any of them: they move the cursor, clear the screen, or set the clipboard.

    Args:
        keep: characters that are left as they are, such as a text's own line ends.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep or unicodedata.category(c) == "Zs" else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
