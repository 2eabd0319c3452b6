"""Count the lines on the path of a pod's birth, from the POST to the running container; more than 6,000 is an error.

The promise is that this path reads in a weekend. The list below is the reading order that ARCHITECTURE.md walks
through; a module that takes over part of the way belongs in it. General tools that it uses and that can be taken at
their word (sampan/loop, sampan/client, sampan/api) are not on it. Lines of code are counted: neither blank lines nor
comments nor docstrings, which make reading easier rather than longer.

Usage: python script/birth_path.py
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from pathlib import Path

LIMIT = 6000
ROOT = Path(__file__).parent.parent

PATH = {
    "the request arrives": (
        "master/apiserver/app.py", "master/apiserver/request.py", "master/apiserver/handlers.py",
        "master/apiserver/decode.py"),
    "it becomes an object": (
        "master/apiserver/write.py", "master/apiserver/metadata.py", "master/apiserver/admission.py",
        "master/apiserver/strategy.py", "master/apiserver/kinds/core_pod.py"),
    "it is stored": ("master/store/protocol.py", "master/store/sqlite.py", "master/store/writer.py"),
    "everyone hears of it": (
        "master/apiserver/registry.py", "master/apiserver/cache.py", "master/apiserver/entry.py"),
    "it gets a node": (
        "master/scheduler/scheduler.py", "master/scheduler/decide.py", "master/scheduler/rules.py",
        "master/scheduler/cluster.py"),
    "it travels to the node": (
        "master/nodes/session.py", "master/nodes/feed.py", "master/nodes/interest.py",
        "sampan/api/references.py", "agent/link/link.py", "agent/link/view.py"),
    "the agent decides": (
        "agent/pods/manager.py", "agent/pods/worker.py", "agent/pods/plan.py", "agent/pods/steps.py",
        "agent/pods/model.py"),
    "the agent acts": (
        "agent/pods/actions.py", "agent/pods/creation.py", "agent/pods/containers.py", "agent/engine/docker/engine.py",
        "netplugin/network.py", "netplugin/ipam.py"),
    "its status comes back": ("agent/pods/status.py", "master/nodes/reports.py"),
}


def lines(path: Path) -> int:
    """Lines with code on them."""
    text = path.read_text("utf-8")
    quiet = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING,
             tokenize.ENDMARKER}
    busy = {number for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in quiet
            for number in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(text)):
        # A string that stands alone as a statement is a docstring, of a field too.
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            busy -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(busy)


def main() -> int:
    """Print the count of each stage, and judge the sum."""
    total = 0
    for stage, names in PATH.items():
        count = sum(lines(ROOT / name) for name in names)
        total += count
        print(f"{count:6}  {stage}: {', '.join(names)}")
    print(f"{total:6}  of at most {LIMIT}")
    return 0 if total <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
