"""What the endpoints below /v1 answer, in OpenAI's shape."""

from typing import Literal

from pydantic import Field

from service.schemas import Answer


class OpenAIErrorBody(Answer):
    """What went wrong, as OpenAI's clients read it."""

    message: str = Field(description="What went wrong this time, and what to do.")
    type: str = Field(examples=["invalid_request_error"])
    param: str | None = Field(description="The member of the request at fault, where it is one.", examples=["input[3]"])
    code: str = Field(description="The `type` that the same error has elsewhere.", examples=["undecodable_image"])


class OpenAIError(Answer):
    """An error below /v1."""

    error: OpenAIErrorBody


class OpenAIUsage(Answer):
    """Images, where OpenAI counts tokens."""

    prompt_tokens: int
    total_tokens: int


class OpenAIEmbedding(Answer):
    """One image's embedding as OpenAI has it, and how sure it is."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str | None = Field(
        description="D numbers of unit L2 norm; base64 of D little-endian float32 with `encoding_format=base64`; "
        "null when abstained with `on_abstain=omit`."
    )
    uncertainty: float
    percentile: float
    novelty: float
    novelty_percentile: float
    abstained: bool


class OpenAIEmbeddings(Answer):
    """One embedding per image, in the order they were sent."""

    object: Literal["list"]
    data: list[OpenAIEmbedding]
    model: str = Field(description="The bundle's name.")
    usage: OpenAIUsage


class OpenAIModel(Answer):
    """A served bundle."""

    id: str
    object: Literal["model"]
    created: int = Field(description="When the bundle was made, seconds of the epoch; 0 where it does not say.")
    owned_by: Literal["candor"]


class OpenAIModels(Answer):
    """Every served bundle, the default one first."""

    object: Literal["list"]
    data: list[OpenAIModel]
