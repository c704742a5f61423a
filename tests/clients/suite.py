"""Checks, and how they are run: one line each, and a count at the end."""

import subprocess
import time
import traceback

# Most characters of an error that are printed.
SHOWN = 3000


class Skipped(Exception):
    """What a check needs is not on this machine."""


class Suite:
    """Checks of one kind. `@suite.check` adds a function; with a table, one check for each row."""

    def __init__(self, name):
        self.name = name
        self.checks = []

    def check(self, function):
        self.checks.append((words(function), function))
        return function

    def over(self, table):
        """The function is run with each value of the table, which is named by its key."""

        def add(function):
            for name, value in table.items():
                self.checks.append((f"{words(function)}: {name}", lambda *args, value=value: function(*args, value)))
            return function

        return add

    def run(self, report, *args, prefix=""):
        for name, function in self.checks:
            report.run(f"{self.name}{prefix}: {name}", lambda function=function: function(*args))


class Report:
    """What ran, and how it went. With words, only the checks whose names have one of them run."""

    def __init__(self, wanted):
        self.wanted, self.passed, self.failed, self.skipped = wanted, 0, [], []
        self.took = []

    def wants(self, name):
        return not self.wanted or any(word in name for word in self.wanted)

    def run(self, name, run):
        if not self.wants(name):
            return
        started = time.monotonic()
        try:
            run()
        except Skipped as why:
            self.skipped.append(name)
            print(f"skip  {name}\n      {why}", flush=True)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next check shall run
            self.failed.append(name)
            print(
                f"FAIL  {name}\n      {type(error).__name__}: {str(error)[:SHOWN]}\n      {place_of(error)}", flush=True
            )
        else:
            self.passed += 1
            took = time.monotonic() - started
            self.took.append((took, name))
            print(f"ok    {name}  {took * 1e3:.0f} ms", flush=True)

    def adopt(self, *command):
        """Runs checks in a process of their own, which prints as this one does, and counts them here."""
        process = subprocess.Popen([*command, *self.wanted], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            kind, _, name = line.rstrip().partition("  ")
            if kind == "ok":
                self.passed += 1
            elif kind in ("FAIL", "skip"):
                (self.failed if kind == "FAIL" else self.skipped).append(name.strip())
        if process.wait() not in (0, 1):
            self.failed.append(f"{command[1]} ended with {process.returncode}")

    def close(self):
        """Prints the sums; whether all is well."""
        for name in self.failed:
            print(f"failed: {name}")
        print(f"{self.passed} passed, {len(self.failed)} failed, {len(self.skipped)} skipped")
        return not self.failed


def words(function):
    return function.__name__.replace("_", " ")


def place_of(error):
    """The lines of ours that led to the error, innermost first."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/tests/" in frame.filename and not frame.filename.endswith("suite.py")]
    return "\n      ".join(
        f"{frame.filename.rsplit('/', 1)[1]}:{frame.lineno} {frame.line}" for frame in reversed(ours)
    )


def same(got, wanted, what=""):
    assert got == wanted, f"{what}{': ' if what else ''}expected {wanted!r}, got {got!r}"
