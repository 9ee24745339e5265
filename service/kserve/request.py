"""A request to infer: JSON, then the bytes of its binary tensors in their order.

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import Field

from service.answering import AbstainOptions
from service.decoding import Decoded, Source
from service.errors import InvalidOption, Malformed
from service.fields import Fields
from service.intake import parse_json_object, parse_options
from service.kserve.tensors import encoded_images, pixels

LENGTH_HEADER: Final = "Inference-Header-Content-Length"
OUTPUTS: Final = ("embedding", "uncertainty", "percentile", "novelty", "novelty_percentile", "abstained")

Count = Annotated[int, Field(strict=True, ge=0)]


class InputParameters(Fields):
    """How an input is sent."""

    binary_data_size: Count | None = Field(
        default=None, description="Bytes of it after the JSON; without, it is in `data`."
    )


class InputFields(Fields):
    """An input: its bytes follow the JSON, or its values are in `data`."""

    name: str = Field(description="`image` or `image_bytes`.")
    shape: list[Count]
    datatype: str = Field(description="UINT8 or BYTES.")
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = Field(
        default=None, description="Numbers, flat or nested; of `image_bytes`, base64 or data URIs."
    )


class OutputParameters(Fields):
    """How an output is wanted."""

    binary_data: bool | None = Field(default=None, description="After the JSON; unset: as `binary_data_output`.")


class OutputFields(Fields):
    """An output that is wanted."""

    name: str
    parameters: OutputParameters = OutputParameters()


class InferParameters(AbstainOptions):
    """candor's options, and how outputs are wanted."""

    binary_data_output: bool = Field(default=False, description="All outputs after the JSON.")


class InferFields(Fields):
    """The JSON of a request: exactly one of the two inputs, and the outputs wanted, all of them if none is named."""

    id: str | None = None
    parameters: InferParameters = InferParameters()
    inputs: list[InputFields] = Field(min_length=1)
    outputs: list[OutputFields] = Field(default=[], description="Unset: all of them.")


@dataclass(frozen=True)
class Inference:
    """What is asked: images, encoded or as pixels, in the input of that name; and outputs, binary or not."""

    id: str | None
    input: str
    images: Sequence[Source | Decoded]
    options: AbstainOptions
    outputs: dict[str, bool]


def parse_inference(body: bytes, header: str | None, size: int) -> Inference:
    """A body to what it asks; `header` is the length of its JSON, where it has one, and `size` the bundle's.

    A length of 0 is the protocol's raw request: the body is one encoded image and nothing else.

    Raises:
        Malformed: for a body that is not as its header, JSON and shapes say.
        InvalidOption: for what the bundle does not take or give.
    """
    length = _json_length(body, header)
    if header is not None and length == 0:
        return Inference(None, "image_bytes", [body], AbstainOptions(), dict.fromkeys(OUTPUTS, True))
    fields = parse_options(InferFields, parse_json_object(body[:length]))
    if len(fields.inputs) != 1:
        raise InvalidOption("inputs: give exactly one, image or image_bytes")
    given = fields.inputs[0]
    images = _images(given, _binary_of(given, body[length:]), size)
    return Inference(fields.id, given.name, images, fields.parameters, _wanted(fields))


def _json_length(body: bytes, header: str | None) -> int:
    if header is None:
        return len(body)
    if not header.isdecimal() or int(header) > len(body):
        raise Malformed(f"{LENGTH_HEADER} is {header!r}, and the body has {len(body)} bytes")
    return int(header)


def _binary_of(given: InputFields, rest: bytes) -> bytes | None:
    """The bytes of an input that has none in its JSON."""
    size = given.parameters.binary_data_size
    if (size is None) == (given.data is None):
        raise Malformed("inputs: give exactly one of data and parameters.binary_data_size")
    if (size or 0) != len(rest):
        raise Malformed(f"{len(rest)} bytes follow the JSON, and binary_data_size is {size or 0}")
    return None if size is None else rest


def _images(given: InputFields, binary: bytes | None, size: int) -> Sequence[Source | Decoded]:
    values = given.data or [] if binary is None else binary
    match given.name, given.datatype:
        case "image", "UINT8":
            return pixels(values, given.shape, size)
        case "image_bytes", "BYTES":
            return encoded_images(values, given.shape)
        case (("image" | "image_bytes"), _):
            raise InvalidOption("datatype: image is UINT8, and image_bytes is BYTES")
    raise InvalidOption(f"inputs: there is no {given.name!r}; there are image and image_bytes")


def _wanted(fields: InferFields) -> dict[str, bool]:
    """The outputs asked for, and whether each is to be binary."""
    default = fields.parameters.binary_data_output
    if not fields.outputs:
        return dict.fromkeys(OUTPUTS, default)
    names = [output.name for output in fields.outputs]
    if unknown := sorted(set(names) - set(OUTPUTS)):
        raise InvalidOption(f"outputs: there is no {', '.join(map(repr, unknown))}; there are {', '.join(OUTPUTS)}")
    if len(set(names)) < len(names):
        raise InvalidOption("outputs: one is named twice")
    given = {output.name: output.parameters.binary_data for output in fields.outputs}
    return {name: default if binary is None else binary for name, binary in given.items()}
