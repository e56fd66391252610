"""Signs that a text has to be searched, for rows and for whole columns alike. Standard library
only."""

from __future__ import annotations

from engine.doctor import secret_patterns

# One of these is in every token of a template, every secret and every address, in small letters.
SIGNS = tuple(dict.fromkeys(("<", "[", "@", *secret_patterns.SIGNS)))
# By so much of its beginning the script of a text is known.
SCRIPT_CHARACTERS = 400
