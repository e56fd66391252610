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
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENGINE = "engine"
NOT_OURS_TO_READ = ("tests", "benchmarks", "docs", "scripts")

NODES_A_LINE = 4.5
BLANK_SHARE = 0.08
FUNCTION_LINES = {"web side": 35, "engine": 60}
TEMPLATE_LINE = 120

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Figures:
    """Of one half of the source: a value for each function."""

    lines: list[int] = field(default_factory=list)
    nodes: list[int] = field(default_factory=list)
    blank: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def add(self, function: Function, text: list[str], path: str) -> None:
        first = min([function, *function.decorator_list], key=lambda node: node.lineno)
        body = text[first.lineno - 1 : function.end_lineno]
        self.lines.append(len(body))
        self.nodes.append(count_nodes(function))
        self.blank.append(sum(not line.strip() for line in body))
        self.names.append(f"{path}:{function.lineno} {function.name}")

    @property
    def nodes_a_line(self) -> float:
        return sum(self.nodes) / sum(self.lines)

    @property
    def blank_share(self) -> float:
        return sum(self.blank) / sum(self.lines)

    @property
    def tenth_longest(self) -> int:
        return statistics.quantiles(self.lines, n=10, method="inclusive")[-1].__ceil__()

    def densest(self, count: int) -> list[str]:
        """Files by the nodes that they have too many."""
        excess: dict[str, float] = {}
        for lines, nodes, name in zip(self.lines, self.nodes, self.names, strict=True):
            path = name.partition(":")[0]
            excess[path] = excess.get(path, 0) + nodes - NODES_A_LINE * lines

        worst = sorted(excess.items(), key=lambda item: -item[1])[:count]
        return [f"{path}: {nodes:.0f} nodes over" for path, nodes in worst]


def count_nodes(tree: ast.AST) -> int:
    return sum(not isinstance(node, ast.Load | ast.Store | ast.Del) for node in ast.walk(tree))


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
        room = path.split("/")[0]
        if room in NOT_OURS_TO_READ or "/migrations/" in path or not path.startswith(below):
            continue

        text = (ROOT / path).read_text()
        half = halves["engine" if room == ENGINE else "web side"]
        for function in outer_functions(ast.parse(text)):
            half.add(function, text.splitlines(), path)

    return {name: half for name, half in halves.items() if half.lines}


def outer_functions(tree: ast.AST) -> list[Function]:
    found: list[Function] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function):
            found.append(node)
        else:
            found += outer_functions(node)

    return found


def read_templates() -> tuple[float, list[str]]:
    """(characters a line, places of lines that are too long)."""
    lengths: list[int] = []
    long_lines: list[str] = []

    for path in tracked("templates/*.html"):
        for number, line in enumerate((ROOT / path).read_text().splitlines(), 1):
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
        "in engine/), "
        f"no template line over {TEMPLATE_LINE}."
    )

    sys.exit(1 if missed or long_lines else 0)


if __name__ == "__main__":
    main()
