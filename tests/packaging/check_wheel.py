"""Checks what is in a wheel: ``python tests/packaging/check_wheel.py WHEEL ... [--kernels]``.

Used by the test of the build and by the job that builds the wheels. Needs no torch.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import io
import json
import sys
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import Any

LIBRARY = "vitkern/_C.abi3.so"
INFO = "vitkern/_C.build.json"
NEEDED = (
    "vitkern/__init__.py", "vitkern/cli/__main__.py", "vitkern/_build/parameters.py",
    "vitkern/ops/attention/cpu.py", "vitkern/patching/api.py", INFO,
    # For `vitkern build`, where somebody installs without a compiler and gets one later.
    "vitkern/csrc/registration.cpp", "vitkern/csrc/cpu/isa/generic.cpp",
)  # fmt: skip
EXTRAS = {"bench", "dev", "docs", "peers", "train"}
"""There may be more."""


def check(wheel: Path, *, kernels: bool) -> list[str]:
    """What is wrong with a wheel; nothing if it is as it should be.

    Args:
        wheel: the file.
        kernels: whether it has to have the library.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        folder = next((name.partition("/")[0] for name in names if ".dist-info/" in name), "")
        wrong = [f"{name} is missing" for name in NEEDED if name not in names]
        wrong += [
            f"{name} does not belong there"
            for name in sorted(names)
            if not name.startswith(("vitkern/", "vitkern.libs/", f"{folder}/"))
            or name.endswith((".pyc", ".o", ".log"))
        ]
        if wrong:
            return wrong
        wrong += _record(archive, folder)
        wrong += _metadata(archive.read(f"{folder}/METADATA").decode(), wheel)
        if b"vitkern = vitkern.cli:main" not in archive.read(f"{folder}/entry_points.txt"):
            wrong.append("there is no command vitkern")
        wrong += _library(archive, names, wheel, kernels)
    return wrong


def _record(archive: zipfile.ZipFile, folder: str) -> list[str]:
    """Each file is in RECORD, with its digest."""
    record = f"{folder}/RECORD"
    rows = {row[0]: row for row in csv.reader(io.StringIO(archive.read(record).decode()))}
    wrong = [f"{name} is not in RECORD" for name in archive.namelist() if name not in rows]
    for name, (_, expected, _) in rows.items():
        if name == record:
            continue
        digest = hashlib.sha256(archive.read(name)).digest()
        found = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if expected != f"sha256={found}":
            wrong.append(f"{name} is not what RECORD says")
    return wrong


def _metadata(text: str, wheel: Path) -> list[str]:
    found = Parser().parsestr(text)
    version = wheel.name.split("-")[1]
    wrong = []
    expected = {
        "Name": "vitkern", "Version": version, "Requires-Python": ">=3.10",
        "License-Expression": "Apache-2.0",
    }  # fmt: skip
    for name, value in expected.items():
        if found[name] != value:
            wrong.append(f"METADATA has {name}: {found[name]}, not {value}")
    extras = set(found.get_all("Provides-Extra", []))
    if not extras >= EXTRAS:
        wrong.append(f"METADATA is without the extras {sorted(EXTRAS - extras)}")
    requires = [line for line in found.get_all("Requires-Dist", []) if "extra ==" not in line]
    if not any(line.startswith("torch>=2.10") for line in requires):
        wrong.append(f"METADATA requires {requires}, without torch>=2.10")
    return wrong


def _library(
    archive: zipfile.ZipFile, names: set[str], wheel: Path, kernels: bool
) -> list[str]:  # fmt: skip
    """The tag, the library and what the build says of it agree."""
    tag = wheel.stem.split("-", 2)[2]
    info: dict[str, Any] = json.loads(archive.read(INFO))
    has = LIBRARY in names
    if has != bool(info["kernels"]):
        return [f"{INFO} says kernels: {info['kernels']}, and the library is there: {has}"]
    if kernels and not has:
        return [f"there is no library: {info.get('reason')}"]
    if has and not tag.startswith("cp310-abi3-"):
        return [f"the tag is {tag}, of a wheel with a library for Python's stable ABI"]
    if not has and tag != "py3-none-any":
        return [f"the tag is {tag}, of a wheel without a library"]
    if has and "avx512_emulated" in info["isas"]:
        return ["the library has an instruction set that is for tests only"]
    return []


def main() -> int:
    """Check the files of the command line; 1 where one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheels", metavar="WHEEL", nargs="+", type=Path)
    parser.add_argument("--kernels", action="store_true", help="there has to be the library")
    arguments = parser.parse_args()
    status = 0
    for wheel in arguments.wheels:
        wrong = check(wheel, kernels=arguments.kernels)
        for line in wrong:
            print(f"{wheel.name}: {line}", file=sys.stderr)
        print(f"{wheel.name}: {len(wrong)} faults" if wrong else f"{wheel.name}: well")
        status |= bool(wrong)
    return status


if __name__ == "__main__":
    sys.exit(main())
