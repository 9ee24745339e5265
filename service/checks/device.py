"""Where the graph will run, and what keeps it from running elsewhere."""

from collections.abc import Iterator

import onnxruntime as ort

from service.checks.cuda import describe, gpu_is_there, shortcomings
from service.checks.findings import Finding, Kind
from service.checks.situation import Situation
from service.providers import GPU, missing_for
from service.settings import Device


def check(situation: Situation) -> Iterator[Finding]:
    """What `CANDOR_DEVICE` comes to on this machine."""
    asked = situation.settings.device
    wanted = Device.CUDA if asked is Device.AUTO else asked
    missing = shortcomings(wanted, situation.environment) if wanted in GPU else missing_for(wanted)
    offered = ", ".join(name.removesuffix("ExecutionProvider") for name in ort.get_available_providers())
    if not missing:
        where = f": {describe()}" if wanted in GPU else ""
        yield Finding(Kind.DEVICE_CHOSEN, f"CANDOR_DEVICE={asked.value} is {wanted.value}{where}; offered: {offered}")
        return
    if asked is not Device.AUTO:
        yield from (Finding(Kind.DEVICE_MISSING, f"no {asked.value}: {reason}") for reason in missing)
        return
    yield Finding(Kind.DEVICE_CHOSEN, f"CANDOR_DEVICE=auto is cpu; offered: {offered}")
    if gpu_is_there():
        yield from (Finding(Kind.GPU_UNUSED, reason) for reason in missing)
