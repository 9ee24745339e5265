"""Everything that `candor doctor` may find, how bad it is, and what to do about it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, StrEnum

INSTALL = "Install one extra into a fresh environment: `pip install 'candor[cpu]'`, or `'candor[gpu]'` for CUDA."


class Level(StrEnum):
    """How bad a finding is; with a problem, a server refuses to start, or does not answer as it should."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"


OK, NOTE, WARNING, PROBLEM = Level


class Kind(Enum):
    """A finding's subject, level, meaning, and what to do; its key is its name in small letters."""

    SETTINGS_READ = "settings", OK, "Every setting has a value that can be used.", ""
    SETTINGS_REFUSED = (
        "settings",
        PROBLEM,
        "A setting cannot be used: `candor serve` exits with 2.",
        "Set the variable to a value that docs/settings.md allows.",
    )
    SETTING_UNKNOWN = (
        "settings",
        WARNING,
        "A `CANDOR_*` variable that nothing reads.",
        "Correct its name, or unset it.",
    )
    SETTING_WITHOUT_EFFECT = (
        "settings",
        NOTE,
        "A setting that means nothing beside the others.",
        "Unset it, or change the one that it depends on.",
    )
    IMAGE_ABOVE_BODY = (
        "settings",
        NOTE,
        "The largest image allowed does not fit into a JSON or multipart body.",
        "Raise CANDOR_MAX_BODY_BYTES, or lower CANDOR_MAX_IMAGE_BYTES.",
    )

    PACKAGES_INSTALLED = "packages", OK, "Python and all packages are of versions that candor works with.", ""
    PYTHON_UNSUPPORTED = (
        "packages",
        PROBLEM,
        "This Python is of a version that candor is not made for.",
        "Make an environment with a Python that it names.",
    )
    PACKAGE_MISSING = "packages", PROBLEM, "A package that candor needs is not installed.", INSTALL
    PACKAGE_OUTSIDE = (
        "packages",
        WARNING,
        "A package is of a version that candor is not made for.",
        "Install candor again into a fresh environment, with requirements/serve-cpu.txt or serve-gpu.txt for the "
        "versions it is tested with.",
    )
    RUNTIME_MISSING = "packages", PROBLEM, "No onnxruntime is installed.", INSTALL
    RUNTIMES_MIXED = (
        "packages",
        WARNING,
        "Several packages that provide `onnxruntime` are installed: each overwrites the others' files.",
        f"Uninstall all of them. {INSTALL}",
    )

    DEVICE_CHOSEN = "device", OK, "The device that the graph will run on.", ""
    DEVICE_MISSING = (
        "device",
        PROBLEM,
        "The device that was asked for cannot be had: a server refuses to start.",
        "Mend what is named, or set CANDOR_DEVICE=cpu.",
    )
    GPU_UNUSED = (
        "device",
        WARNING,
        "There is a GPU, and the graph will run on the CPU.",
        "Mend what is named; CANDOR_DEVICE=cuda refuses to start without the GPU, CANDOR_DEVICE=cpu asks for none.",
    )

    CORES_COUNTED = "cores", OK, "Cores that this process may use, and those that the settings take.", ""
    WORKERS_ABOVE_CORES = (
        "cores",
        WARNING,
        "More workers than cores.",
        "Lower CANDOR_WORKERS to the number of cores at most, or grant more cores.",
    )
    THREADS_ABOVE_CORES = (
        "cores",
        WARNING,
        "Workers, lanes and threads together are more than the cores.",
        "Leave CANDOR_THREADS and CANDOR_LANES at 0, or lower them.",
    )
    QUOTA_IN_PARTS = (
        "cores",
        NOTE,
        "The quota is not of whole cores: the last one is stopped in every period.",
        "Grant whole cores (docker: `--cpus`, Kubernetes: `limits.cpu`).",
    )
    LIBRARY_THREADS = (
        "cores",
        NOTE,
        "numpy's library starts more threads than there are cores.",
        "Set OPENBLAS_NUM_THREADS to the number of cores.",
    )

    BUNDLE_LOADED = "bundle", OK, "The bundle's manifest is valid, and its graph is the one described.", ""
    BUNDLE_REFUSED = (
        "bundle",
        PROBLEM,
        "The bundle cannot be served: a file is missing, the manifest is not valid, or the graph is another one.",
        "Copy or export the bundle again, or name another with CANDOR_BUNDLE; unset, the shipped one is served.",
    )
    GRAPH_RUNS = (
        "bundle",
        OK,
        "The graph is what the manifest says, gives finite numbers and unit embeddings, and agrees with the CPU.",
        "",
    )
    GRAPH_REFUSED = (
        "bundle",
        PROBLEM,
        "onnxruntime cannot run the graph here, or it says something else than it should.",
        "Do what the message says, or set CANDOR_DEVICE=cpu; else export the bundle again.",
    )
    INT8_ON_GPU = (
        "bundle",
        WARNING,
        "A bundle in int8 is for CPUs.",
        "Serve the float32 bundle it was made of: beside `default`, that is `default-fp32`.",
    )
    FLOAT_ON_CPU = (
        "bundle",
        NOTE,
        "A bundle in float32 runs on a CPU.",
        "`candor lower-precision` makes a faster one of it, where that says the same.",
    )
    TUNING_SETTLED = "bundle", OK, "Threads, lanes and batch size are known.", ""
    TUNING_DUE = (
        "bundle",
        NOTE,
        "The next start measures threads, lanes and batch size first.",
        "Start it once before it is needed, or set CANDOR_THREADS, CANDOR_LANES and CANDOR_MAX_BATCH.",
    )

    GALLERY_OPENED = "gallery", OK, "The gallery is there, and of this bundle.", ""
    GALLERY_NONE = "gallery", OK, "The bundle is served without a gallery, as the settings say.", ""
    GALLERY_TO_BE_MADE = (
        "gallery",
        NOTE,
        "There is no gallery yet: the start makes it.",
        "Nothing, if that is where it belongs; else set CANDOR_GALLERY, a folder relative to where the server starts.",
    )
    GALLERY_REFUSED = (
        "gallery",
        PROBLEM,
        "The gallery cannot be used, or holds embeddings of another bundle.",
        "Do what the message says, or set CANDOR_GALLERY to another place.",
    )
    GALLERY_UNREACHABLE = (
        "gallery",
        PROBLEM,
        "The gallery's engine does not answer: a server waits for it, and answers 503.",
        "Start the engine, and check the host, port and login of CANDOR_GALLERY and the network between.",
    )
    GALLERY_READ_ONLY = (
        "gallery",
        PROBLEM,
        "The gallery cannot be written to.",
        "Give the user that runs the server the right to write there, or set CANDOR_GALLERY to another place.",
    )
    GALLERY_UNINDEXED = (
        "gallery",
        NOTE,
        "Items that searches go through one by one, as no index holds them yet.",
        "Nothing: a running server builds and extends the index in the background.",
    )
    GALLERY_IN_USE = (
        "gallery",
        NOTE,
        "A server of this machine has the gallery open and does its upkeep.",
        "Nothing, if that is meant: several servers may share a gallery.",
    )

    POLICIES_READ = "policies", OK, "The policies that are kept, or that there are none yet.", ""
    POLICIES_REFUSED = (
        "policies",
        PROBLEM,
        "The file of policies cannot be read.",
        "Do what the message says, or set CANDOR_POLICIES to another file.",
    )
    POLICY_STALE = (
        "policies",
        WARNING,
        "A policy was certified with another bundle, or the gallery has changed since.",
        "Certify it again with `candor certify`.",
    )
    POLICY_ALARMED = (
        "policies",
        WARNING,
        "Feedback or drift speaks against a policy's promise.",
        "Look at GET /policies, then certify it again with newer queries.",
    )

    MEMORY_ENOUGH = "memory", OK, "The workers fit into the memory granted.", ""
    MEMORY_SHORT = (
        "memory",
        PROBLEM,
        "The workers need more memory than is granted: the system would kill them.",
        "Raise the limit (docker: `--memory`, Kubernetes: `limits.memory`), or lower CANDOR_WORKERS.",
    )
    MEMORY_TIGHT = (
        "memory",
        WARNING,
        "The workers fit, with little room for images and searches.",
        "Raise the limit (docker: `--memory`, Kubernetes: `limits.memory`), or lower CANDOR_WORKERS.",
    )

    PORT_FREE = "network", OK, "The port can be taken.", ""
    PORT_TAKEN = (
        "network",
        PROBLEM,
        "Another program listens on the port.",
        "Stop it, or set CANDOR_PORT to a free port.",
    )
    PORT_SERVED = (
        "network",
        WARNING,
        "A candor server listens on the port already.",
        "Nothing, if it is the one examined; else stop it, or set CANDOR_PORT to a free port.",
    )
    PORT_FORBIDDEN = (
        "network",
        PROBLEM,
        "The port is one that this user may not take.",
        "Set CANDOR_PORT to 1024 or above, and have a proxy or the container publish the other.",
    )
    ADDRESS_UNUSABLE = (
        "network",
        PROBLEM,
        "The address is not one of this machine.",
        "Set CANDOR_HOST to 127.0.0.1, to 0.0.0.0, or to an address of this machine.",
    )
    PUBLIC_WITHOUT_KEY = (
        "network",
        WARNING,
        "Whoever reaches this machine may read and change everything.",
        "Nothing, if anybody may use it; else set CANDOR_API_KEYS in place of CANDOR_ALLOW_ANONYMOUS.",
    )
    FEW_OPEN_FILES = (
        "network",
        WARNING,
        "Fewer files may be open than connections and the gallery need.",
        "Raise the limit: `ulimit -n 65536`, docker: `--ulimit nofile=65536`, systemd: `LimitNOFILE=65536`.",
    )

    DISK_READY = "disk", OK, "The folders that a server writes to are writable, with room to spare.", ""
    DISK_LOW = "disk", WARNING, "Little room is left on a disk.", "Make room, or move the folder to another disk."
    DISK_FULL = "disk", PROBLEM, "No room is left on a disk: writes will fail.", "Make room, or move the folder."
    TEMPORARY_UNWRITABLE = (
        "disk",
        PROBLEM,
        "No temporary file can be written.",
        "Set TMPDIR to a folder that can be written, or mount one there (docker: `--tmpfs /tmp`).",
    )
    CACHE_UNWRITABLE = (
        "disk",
        NOTE,
        "The choice of threads, lanes and batch size cannot be kept: every start measures again.",
        "Set XDG_CACHE_HOME to a folder that can be written and outlives the container.",
    )

    CHECK_FAILED = (
        "doctor",
        WARNING,
        "A check could not be done.",
        "Mend what is named, if it is known, and run `candor doctor` again.",
    )

    def __init__(self, subject: str, level: Level, meaning: str, advice: str) -> None:
        self.subject = subject
        self.level = level
        self.meaning = meaning
        self.advice = advice

    @property
    def key(self) -> str:
        """Its name for machines and for docs/doctor.md."""
        return self.name.lower()


@dataclass(frozen=True)
class Finding:
    """One thing found: its kind, and what was found in words."""

    kind: Kind
    found: str


def attempted(name: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """What a check finds; that it failed, after what it found until then, if it does."""
    try:
        yield from check()
    except Exception as error:
        yield Finding(Kind.CHECK_FAILED, f"{name}: {type(error).__name__}: {error}")
