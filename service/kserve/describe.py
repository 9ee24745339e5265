"""What a bundle takes and gives, as the protocol's clients ask for it."""

from typing import Any, Final

from service.lifecycle import Services

TRITON_TYPES: Final = {"BYTES": "TYPE_STRING"}  # others are called alike
PLATFORM: Final = "onnxruntime_onnx"
ANY: Final = -1


def metadata(services: Services) -> dict[str, Any]:
    """Name, version, inputs (one of the two is sent) and outputs."""
    size, dimension = services.bundle.preprocessing.size, services.bundle.manifest.dimension
    return {
        "name": services.name,
        "versions": [services.bundle.hash],
        "platform": PLATFORM,
        "inputs": [_tensor("image", "UINT8", ANY, size, size, 3), _tensor("image_bytes", "BYTES", ANY)],
        "outputs": [
            _tensor("embedding", "FP32", ANY, dimension),
            _tensor("uncertainty", "FP32", ANY),
            _tensor("percentile", "FP64", ANY),
            _tensor("novelty", "FP32", ANY),
            _tensor("novelty_percentile", "FP64", ANY),
            _tensor("abstained", "BOOL", ANY),
        ],
    }


def config(services: Services) -> dict[str, Any]:
    """The same as Triton's configuration of a model, whose shapes say for themselves that they take batches."""
    told = metadata(services)
    return {
        "name": told["name"],
        "platform": PLATFORM,
        "backend": "onnxruntime",
        "max_batch_size": 0,
        "input": [{**_configured(tensor), "optional": True} for tensor in told["inputs"]],
        "output": [_configured(tensor) for tensor in told["outputs"]],
    }


def _tensor(name: str, datatype: str, *shape: int) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape)}


def _configured(tensor: dict[str, Any]) -> dict[str, Any]:
    kind = tensor["datatype"]
    return {"name": tensor["name"], "data_type": TRITON_TYPES.get(kind, f"TYPE_{kind}"), "dims": tensor["shape"]}
