"""What the endpoints below /v2 answer, in the shape of the Open Inference Protocol."""

from typing import Literal

from pydantic import Field

from service.schemas import Answer


class KServeError(Answer):
    """An error below /v2."""

    error: str = Field(description="What went wrong and what to do, with the `type` that it has elsewhere.")


class KServeLive(Answer):
    """Whether the process can do its work."""

    live: bool


class KServeReady(Answer):
    """Whether requests are welcome."""

    ready: bool


class KServeModelReady(Answer):
    """Whether a bundle is served."""

    name: str
    ready: bool


class KServeServer(Answer):
    """What server this is."""

    name: Literal["candor"]
    version: str
    extensions: list[str]


class KServeTensor(Answer):
    """An input or an output of a bundle."""

    name: str
    datatype: str
    shape: list[int] = Field(description="-1 is any number of images.")


class KServeModel(Answer):
    """What a bundle takes and gives."""

    name: str
    versions: list[str] = Field(description="The bundle's hash, alone.")
    platform: str
    inputs: list[KServeTensor]
    outputs: list[KServeTensor]


class KServeIndexEntry(Answer):
    """A served bundle."""

    name: str
    version: str
    state: Literal["READY"]
    reason: str


class KServeOutput(Answer):
    """An output of an inference: with `data`, or with `parameters.binary_data_size` bytes after the JSON."""

    name: str
    datatype: str
    shape: list[int]
    data: list[float | bool | None] | None = None
    parameters: dict[str, int] | None = None


class KServeInference(Answer):
    """The outputs of an inference."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[KServeOutput]


class KServeConfigured(Answer):
    """An input or an output of a bundle, as Triton configures it."""

    name: str
    data_type: str
    dims: list[int]
    optional: bool | None = None


class KServeConfig(Answer):
    """A bundle, as Triton configures a model."""

    name: str
    platform: str
    backend: str
    max_batch_size: int = Field(description="0: shapes say for themselves that they take batches.")
    input: list[KServeConfigured]
    output: list[KServeConfigured]
