"""The answer to an inference: JSON, then the bytes of the outputs that are wanted so."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import orjson
from fastapi import Response
from numpy.typing import NDArray

from service.answering import AbstainOptions, abstains, as_rows
from service.decide import Threshold
from service.kserve.request import LENGTH_HEADER
from service.pipeline import Embedded
from service.rendering import JSON

DATATYPES: Final = {"<f4": "FP32", "<f8": "FP64", "|b1": "BOOL"}

Array = NDArray[Any]


def output_arrays(embedded: Sequence[Embedded], threshold: Threshold, options: AbstainOptions) -> dict[str, Array]:
    """Every output by name: `embedding` is (B, D), the others (B,); numbers are as precise as they were computed."""
    scores = [each.scores for each in embedded]
    return {
        "embedding": as_rows(embedded, threshold, options),
        "uncertainty": np.array([each.uncertainty for each in scores], "<f4"),
        "percentile": np.array([each.percentile for each in scores], "<f8"),
        "novelty": np.array([each.novelty for each in scores], "<f4"),
        "novelty_percentile": np.array([each.novelty_percentile for each in scores], "<f8"),
        "abstained": np.array([abstains(each, threshold) for each in embedded]),
    }


def encode_response(head: Mapping[str, Any], arrays: Mapping[str, Array], wanted: Mapping[str, bool]) -> Response:
    """The outputs that are wanted, in that order; `head` is what else the JSON says."""
    outputs = [_output(name, arrays[name], binary) for name, binary in wanted.items()]
    content = orjson.dumps({**head, "outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
    if not any(wanted.values()):
        return Response(content, media_type=JSON)
    data = [arrays[name].tobytes() for name, binary in wanted.items() if binary]
    return Response(
        b"".join([content, *data]),
        headers={LENGTH_HEADER: str(len(content))},
        media_type="application/octet-stream",
    )


def _output(name: str, array: Array, binary: bool) -> dict[str, Any]:
    carried = {"parameters": {"binary_data_size": array.nbytes}} if binary else {"data": array.ravel()}
    return {"name": name, "datatype": DATATYPES[array.dtype.str], "shape": list(array.shape), **carried}
