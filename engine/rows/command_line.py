"""Options that the programs which read rows have in common. Standard library only."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def data_arguments_add(parser: argparse.ArgumentParser) -> None:
    """--data FILE --file-type T --format F [--column-map JSON], as engine.rows.read and
    engine.rows.examples take them."""
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--file-type", required=True)
    # "" where nobody knows it: such a file can still be taken apart.
    parser.add_argument("--format", required=True)
    parser.add_argument("--column-map", type=json.loads, default={})
