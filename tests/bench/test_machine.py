"""The description of the machine, and what must not be in it."""

from __future__ import annotations

import dataclasses
import getpass
import json
import platform
from pathlib import Path

from vitkern.bench.machine import Machine, describe, parse_cpuinfo

EPYC = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC 9R14 96-Core Processor
stepping\t: 1

processor\t: 1
model name\t: other
"""
ARM = """processor : 0
BogoMIPS : 243.75
CPU implementer : 0x41
CPU part : 0xd40
"""


def test_cpuinfo_of_x86() -> None:
    assert parse_cpuinfo(EPYC) == (
        "AMD EPYC 9R14 96-Core Processor",
        "family 25 model 17 stepping 1",
    )


def test_cpuinfo_of_arm_and_of_nobody() -> None:
    assert parse_cpuinfo(ARM) == (platform.machine(), "implementer 0x41 part 0xd40")
    assert parse_cpuinfo("") == (platform.machine(), None)


def machine(**changes: object) -> Machine:
    return dataclasses.replace(describe(), **changes)  # type: ignore[arg-type]


def test_slugs() -> None:
    xeon = machine(
        cpu="Intel(R) Xeon(R) CPU @ 2.20GHz", cpu_id="family 6 model 85 stepping 7", cores=4,
        isa="avx512",
    )  # fmt: skip
    assert xeon.slug == "intel-xeon-family-6-model-85-4-cores-avx512"
    apple = machine(cpu="arm", cpu_id=None, cores=1, isa=None)
    assert apple.slug == "arm-1-core-no-library"


def test_a_title_tells_that_choices_were_measured() -> None:
    assert "tune" not in machine(choices=0).title
    assert machine(choices=1).title.endswith(", 1 choice as measured by tune")
    assert machine(choices=2).title.endswith(", 2 choices as measured by tune")


def test_it_is_json_and_names_no_host_user_or_folder() -> None:
    text = json.dumps(describe().to_dict())
    assert platform.node() not in text
    assert str(Path.home()) not in text
    user = getpass.getuser()
    assert f"/{user}" not in text


def test_threads_and_cores_are_there() -> None:
    here = describe()
    assert here.cores >= 1
    assert here.threads >= 1
    assert here.to_dict()["slug"] == here.slug
