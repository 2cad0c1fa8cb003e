"""What every benchmark's JSON says about the machine, and the tables of ratios after a run."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads sleep

import torch

import fastadv

from . import table


def pytest_benchmark_update_machine_info(config, machine_info: dict) -> None:
    for name in ("node", "release"):  # names of one machine, not of a kind
        machine_info.pop(name, None)
    machine_info["fastadv"] = fastadv.__version__
    machine_info["torch"] = torch.__version__
    machine_info["threads"] = torch.get_num_threads()
    machine_info["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    if torch.cuda.is_available():
        machine_info["gpu"] = torch.cuda.get_device_name()
        machine_info["cuda"] = torch.version.cuda


def pytest_benchmark_update_json(config, benchmarks, output_json: dict) -> None:
    for one in output_json["benchmarks"]:
        one["stats"].pop("data", None)  # every single time: megabytes
    print("\n" + table.of_run(output_json))
