"""What ``convert`` of the reference takes: here models are Hugging Face folders throughout."""

from typing import Any

from longrun.config.nemo_skills.option import (
    EVERYWHERE,
    Table,
    idle,
    moved,
    nest,
    read_precision,
    same,
)

_NO_ENGINES = idle("there are no TensorRT engines")
CONVERT: Table = {
    **EVERYWHERE,
    "input_model": moved("convert.model"),
    "output_model": moved("convert.output_dir"),
    "convert_from": same("hf", "nemo", because="models are Hugging Face folders before and after"),
    "convert_to": same(
        "hf",
        "nemo",
        "trtllm",
        because="models are Hugging Face folders before and after, and every server reads them",
    ),
    "dtype": moved("convert.dtype", read_precision),
    "model_type": idle("the model's config.json says it"),
    "hf_model_name": idle("config and tokenizer come with the model"),
    "num_gpus": idle("converting needs none"),
    "num_nodes": same(1, because="one machine converts"),
    "trt_prepare_args": _NO_ENGINES,
    "trt_reuse_tmp_engine": idle("there are no TensorRT engines", flag=True),
}


def build_conversion(moved: dict[str, Any]) -> dict[str, Any]:
    """Return the stage of the command."""
    own = {place: value for place, value in moved.items() if place.startswith("convert.")}
    return nest({"convert.dtype": "bfloat16", **own})
