"""Runs what the guides show: every Python block that begins with `# NAME.py` becomes that file, and every console block is typed in.

    JITNEY_BIN=target/debug/jitney python3 tests/guide/test_guide.py docs/guide/*.md

A line that begins with `$ ` is a command; the lines after it are what it must print. A line of `...` stands for any lines. Blocks of other
kinds are for reading. The files of one guide share a folder, which is the current one.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"# (\w+\.py)\n")
TIMEOUT_S = 60


def main():
    problems = [problem for guide in map(Path, sys.argv[1:]) for problem in check(guide)]
    for problem in problems:
        print(f"failed: {problem}", file=sys.stderr)
    sys.exit(1 if problems else 0)


def check(guide):
    text = guide.read_text()
    commands, problems = 0, []
    with tempfile.TemporaryDirectory() as folder:
        for block in BLOCK.finditer(text):
            kind, body = block.groups()
            name = NAME.match(body)
            if kind == "python" and name:
                (Path(folder) / name[1]).write_text(body)
            if kind == "console":
                for command, expected in sessions(body):
                    commands += 1
                    got = run(command, folder)
                    if not matches(got.splitlines(), expected):
                        line = text.count("\n", 0, block.start()) + 1
                        problems.append(f"{guide}:{line}: $ {command}\n  expected {expected}\n  got      {got!r}")
    if not commands:
        problems.append(f"{guide}: shows no command")
    print(f"{guide}: {commands - len(problems)} of {commands} commands print what the guide says")
    return problems


def sessions(body):
    """The commands of a block, each with the lines after it."""
    found = []
    for line in body.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif found:
            found[-1][1].append(line)
    return found


def run(command, folder):
    jitney = Path(os.environ["JITNEY_BIN"]).resolve()
    path = f"{jitney.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TIMEOUT_S,
        text=True,
    )
    return done.stdout + (f"(ended with {done.returncode})\n" if done.returncode else "")


def matches(got, expected):
    """Whether the lines are those expected, where `...` stands for any number of them."""
    if not expected:
        return not got
    if expected[0] == "...":
        return any(matches(got[start:], expected[1:]) for start in range(len(got) + 1))
    return bool(got) and got[0] == expected[0] and matches(got[1:], expected[1:])


if __name__ == "__main__":
    main()
