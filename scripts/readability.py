"""How easily the source reads, in figures: python scripts/readability.py [--worst N] [--below PATH]

For the web side and the engine: the length of functions in lines (median, 90th percentile,
largest), AST nodes a line, the share of blank lines in functions; for templates: characters a line
and lines that are too long.

AST nodes are those of a function without Load, Store and Del, divided by all its lines, blank ones
included: how much a reader has to take in at a glance. The aims are those of docs/contributing.md;
exit status 1 says that one is missed."""

from __future__ import annotations

import argparse
import ast
import math
import statistics
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENGINE = "engine"
NOT_MEASURED = ("tests", "benchmarks", "docs", "scripts")

NODES_A_LINE = 4.5
BLANK_SHARE = 0.08
FUNCTION_LINES = {"web side": 35, "engine": 60}
TEMPLATE_LINE = 120

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Figures:
    """The figures of one half of the source, a value for each function."""

    lines: list[int] = field(default_factory=list)
    nodes: list[int] = field(default_factory=list)
    blank: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def add(self, function: Function, text: list[str], path: str) -> None:
        """text: the lines of the file."""
        # Decorators are lines of their function.
        first_line = min(node.lineno for node in (function, *function.decorator_list))
        body = text[first_line - 1 : function.end_lineno]
        blank_lines = [line for line in body if not line.strip()]

        self.lines.append(len(body))
        self.nodes.append(count_nodes(function))
        self.blank.append(len(blank_lines))
        self.names.append(f"{path}:{function.lineno} {function.name}")

    @property
    def nodes_a_line(self) -> float:
        return sum(self.nodes) / sum(self.lines)

    @property
    def blank_share(self) -> float:
        return sum(self.blank) / sum(self.lines)

    @property
    def tenth_longest(self) -> int:
        """The length of which one function in ten is longer."""
        deciles = statistics.quantiles(self.lines, n=10, method="inclusive")
        return math.ceil(deciles[-1])

    def densest(self, count: int) -> list[str]:
        """The files with the most nodes above the aim, as lines to print."""
        excess: Counter[str] = Counter()

        for lines, nodes, name in zip(self.lines, self.nodes, self.names, strict=True):
            path = name.partition(":")[0]
            excess[path] += round(nodes - NODES_A_LINE * lines)

        return [f"{path}: {nodes} nodes over" for path, nodes in excess.most_common(count)]


def count_nodes(tree: ast.AST) -> int:
    contexts = (ast.Load, ast.Store, ast.Del)
    nodes = [node for node in ast.walk(tree) if not isinstance(node, contexts)]

    return len(nodes)


def tracked(pattern: str) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", pattern],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    return listed.stdout.split()


def read_sources(below: str) -> dict[str, Figures]:
    """{half: figures} of the files whose path begins with `below`. Functions inside functions count
    as part of the outer one."""
    halves = {"web side": Figures(), "engine": Figures()}

    for path in tracked("*.py"):
        package = path.split("/")[0]
        if not path.startswith(below):
            continue
        if package in NOT_MEASURED or "/migrations/" in path:
            continue

        text = (ROOT / path).read_text()
        lines = text.splitlines()
        half = halves["engine" if package == ENGINE else "web side"]

        for function in outer_functions(ast.parse(text)):
            half.add(function, lines, path)

    return {name: half for name, half in halves.items() if half.lines}


def outer_functions(tree: ast.AST) -> list[Function]:
    functions: list[Function] = []

    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function):
            functions.append(node)
        else:
            functions += outer_functions(node)

    return functions


def read_templates() -> tuple[float, list[str]]:
    """(characters a line, places of lines that are too long)."""
    lengths: list[int] = []
    long_lines: list[str] = []

    for path in tracked("templates/*.html"):
        lines = (ROOT / path).read_text().splitlines()

        for number, line in enumerate(lines, 1):
            lengths.append(len(line))
            if len(line) > TEMPLATE_LINE:
                long_lines.append(f"{path}:{number} has {len(line)} characters")

    return statistics.mean(lengths), long_lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--worst", type=int, default=0, help="print this many files that are farthest from the aims"
    )
    parser.add_argument("--below", default="", help="only files whose path begins with this")
    arguments = parser.parse_args()

    missed = False

    for name, half in read_sources(arguments.below).items():
        longest = FUNCTION_LINES[name]
        print(
            f"{name}: {len(half.lines)} functions of {statistics.median(half.lines):.0f} / "
            f"{half.tenth_longest} / {max(half.lines)} lines (median, 90 %, largest), "
            f"{half.nodes_a_line:.2f} AST nodes a line, {half.blank_share:.1%} blank lines"
        )

        for place in half.densest(arguments.worst):
            print(f"    {place}")

        missed |= (
            half.nodes_a_line > NODES_A_LINE
            or half.blank_share < BLANK_SHARE
            or half.tenth_longest > longest
        )

    characters, long_lines = read_templates()
    print(
        f"templates: {characters:.0f} characters a line, {len(long_lines)} lines over "
        f"{TEMPLATE_LINE}"
    )

    for place in long_lines[: arguments.worst]:
        print(f"    {place}")

    print(
        f"Aims: at most {NODES_A_LINE} nodes a line, at least {BLANK_SHARE:.0%} blank lines, "
        f"90 % of functions under {FUNCTION_LINES['web side']} lines ({FUNCTION_LINES['engine']} "
        f"in engine/), no template line over {TEMPLATE_LINE}."
    )

    sys.exit(1 if missed or long_lines else 0)


if __name__ == "__main__":
    main()
