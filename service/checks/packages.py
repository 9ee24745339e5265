"""Installed packages against what candor's own distribution asks for."""

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, packages_distributions, version
from typing import Final

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from service.checks.findings import Finding, Kind
from service.checks.situation import Situation

DISTRIBUTION: Final = "candor"
RUNTIME: Final = "onnxruntime"


def check(situation: Situation) -> Iterator[Finding]:
    """Python, the packages that candor requires, those of extras that are there, and the inference runtime."""
    about = metadata(DISTRIBUTION)
    python, supported = platform.python_version(), about["Requires-Python"]
    findings = [
        *python_findings(python, supported),
        *_packages(about.get_all("Requires-Dist") or []),
        *runtime_findings(),
    ]
    yield from findings
    if not findings:
        runtime = runtimes()[0]
        yield Finding(
            Kind.PACKAGES_INSTALLED,
            f"candor {about['Version']}, Python {python}, {runtime} {version(runtime)}",
        )


def runtimes() -> list[str]:
    """Distributions that provide the module `onnxruntime`."""
    return sorted(set(packages_distributions().get(RUNTIME, [])))


def unmet(required: str) -> Finding | None:
    """What is wrong with one requirement; those of extras, which one need not have, may be missing."""
    requirement = Requirement(required)
    always = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return Finding(Kind.PACKAGE_MISSING, f"{requirement.name} is not installed") if always else None
    if requirement.specifier.contains(found, prereleases=True):
        return None
    return Finding(Kind.PACKAGE_OUTSIDE, f"{requirement.name} {found} is installed, not {requirement.specifier}")


def python_findings(found: str, supported: str | None) -> Iterator[Finding]:
    """Whether this version is one that candor supports."""
    if supported and not SpecifierSet(supported).contains(found, prereleases=True):
        yield Finding(Kind.PYTHON_UNSUPPORTED, f"this is Python {found}, and candor needs {supported}")


def _packages(required: list[str]) -> Iterator[Finding]:
    yield from (finding for one in required if (finding := unmet(one)) is not None)


def runtime_findings() -> Iterator[Finding]:
    """Whether there is one onnxruntime, and no more."""
    installed = runtimes()
    if not installed:
        yield Finding(Kind.RUNTIME_MISSING, "the graph needs onnxruntime, and none is installed")
    if len(installed) > 1:
        named = ", ".join(f"{name} {version(name)}" for name in installed)
        yield Finding(Kind.RUNTIMES_MIXED, f"installed together: {named}")
