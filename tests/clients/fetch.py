"""Fetches the clients that are programs, into a folder, with what they need of a newer system.

    python3 tests/clients/fetch.py FOLDER

`perf_analyzer` comes as a wheel for systems with a C library that is newer than Debian 12's. Where the system's is too old, the
libraries are taken from the packages of the next Debian and stay in the folder: the program is started by their loader. The suite of
Autobahn is in Python 2; it is fetched where there is such an interpreter. What cannot be had is said, and its checks are skipped,
unless `JITNEY_REQUIRE_CLIENTS` is set.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PERF_ANALYZER = "perf-analyzer==2.60.0"
PERF_PLATFORM = "manylinux_2_38_x86_64"
PERF_NEEDS = (2, 38)
LIBRARIES = ["libc6", "libstdc++6", "libgcc-s1"]
LIBRARIES_OF = "trixie"
AUTOBAHN = "autobahntestsuite==25.10.1"
PYTHON2 = "python2.7"


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    lacking = []
    for name, fetch in {"perf_analyzer": perf_analyzer, "autobahn": autobahn}.items():
        place = folder / name
        shutil.rmtree(place, ignore_errors=True)
        try:
            fetch(place)
        except (subprocess.CalledProcessError, OSError, LookupError) as error:
            shutil.rmtree(place, ignore_errors=True)
            lacking.append(f"{name}: {error}")
    for line in lacking:
        print(f"\n!!! SKIPPED: {line}\n", file=sys.stderr)
    sys.exit(1 if lacking and os.environ.get("JITNEY_REQUIRE_CLIENTS") else 0)


def perf_analyzer(place):
    """`place/bin/perf_analyzer`, and `place/lib` where the system's libraries are too old."""
    with tempfile.TemporaryDirectory() as wheels:
        pip(
            sys.executable,
            "download",
            "--no-deps",
            "--only-binary=:all:",
            f"--platform={PERF_PLATFORM}",
            "--dest",
            wheels,
            PERF_ANALYZER,
        )
        wheel = next(Path(wheels).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            archive.extract("perf_analyzer/bin/perf_analyzer", place)
    program = place / "bin" / "perf_analyzer"
    shutil.move(place / "perf_analyzer" / "bin", place / "bin")
    program.chmod(0o755)
    if c_library() < PERF_NEEDS:
        newer_libraries(place / "lib")


def c_library():
    """The version of the system's."""
    name, version = platform.libc_ver()
    if name != "glibc":
        raise LookupError(f"it needs the C library of GNU, and this is {name or 'another'}")
    return tuple(int(part) for part in version.split(".")[:2])


def newer_libraries(place):
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        # `apt-get` reads and downloads as a user of its own.
        home.chmod(0o777)
        sources = home / "newer.sources"
        sources.write_text(
            f"Types: deb\nURIs: {archive()}\nSuites: {LIBRARIES_OF}\nComponents: main\nSigned-By: {KEYS}\n"
        )
        for folder in ("lists/partial", "cache/archives/partial"):
            (home / folder).mkdir(parents=True)
        settings = {
            "Dir::Etc::SourceList": sources,
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::State::Lists": home / "lists",
            "Dir::Cache": home / "cache",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
        }
        options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        run("apt-get", "--quiet", "--quiet", *options, "update")
        run("apt-get", "--quiet", "--quiet", *options, "download", *LIBRARIES, cwd=home)
        for package in home.glob("*.deb"):
            run("dpkg-deb", "--extract", str(package), str(home / "root"))
        shutil.copytree(
            home / "root/usr/lib/x86_64-linux-gnu",
            place,
            symlinks=True,
            ignore=shutil.ignore_patterns("gconv", "audit"),
        )


KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"


def archive():
    """The address from which this system takes its own packages."""
    files = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    words = [word for file in files if file.is_file() for word in file.read_text().split()]
    for word in words:
        if "://" in word and word.rstrip("/").endswith("/debian"):
            return word
    raise LookupError(
        "the system's C library is too old for it, and this is no Debian, from which a newer one could be taken"
    )


def autobahn(place):
    """`place/site`, on the path of a Python 2."""
    python = python2()
    pip(python, "install", "--no-compile", "--target", str(place / "site"), AUTOBAHN)
    # Packages of one namespace that are installed into a folder need its mark there.
    (place / "site" / "zope" / "__init__.py").touch()
    (place / "python").symlink_to(python)


def python2():
    """An interpreter, and not a launcher of one that is not there."""
    candidates = [shutil.which(PYTHON2), *sorted(Path.home().glob(".pyenv/versions/2.7.*/bin/python2.7"))]
    for candidate in filter(None, candidates):
        if subprocess.run([candidate, "-m", "pip", "--version"], capture_output=True).returncode == 0:
            return str(candidate)
    raise LookupError("there is no Python 2 with pip")


def pip(python, *arguments):
    run(python, "-m", "pip", arguments[0], "--quiet", "--disable-pip-version-check", *arguments[1:])


def run(*command, cwd=None):
    subprocess.run(command, check=True, cwd=cwd, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
