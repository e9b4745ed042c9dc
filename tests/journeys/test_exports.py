"""Exports in other versions of transformers: the same logits as in ours and in our decoder.

The other versions are fetched into a folder of their own, without their dependencies: torch and
everything else is what is installed here. Where the package index cannot be reached, a version is
skipped by name.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from longrun.checkpoint import convert_model
from longrun.checkpoint.huggingface import load_weights
from longrun.checkpoint.model_folder import read_arch
from longrun.config.convert import ConvertConfig
from longrun.nn.decoder import Decoder
from longrun.nn.pack import build_pack

pytestmark = [pytest.mark.journey, pytest.mark.timeout(600)]
VERSIONS = {
    "4.51.3": ["tokenizers==0.21.4", "huggingface_hub==0.36.0"],
    "4.57.6": ["tokenizers==0.22.1", "huggingface_hub==0.36.0"],
}
BESIDES = ["requests", "urllib3", "idna", "charset_normalizer", "certifi", "regex"]
"""What these versions need besides what is installed here."""
TOKENS = 48
SIZES: dict[str, Any] = {
    "vocab_size": 67,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def plain(theta: float) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta}


MODELS: dict[str, PreTrainedConfig] = {
    "qwen2": Qwen2Config(**SIZES, rope_parameters=plain(1e6), tie_word_embeddings=True),
    "qwen2-yarn": Qwen2Config(
        **SIZES, rope_parameters={**YARN, "rope_theta": 500.0}, max_position_embeddings=64
    ),
    "qwen2-head-dim": Qwen2Config(**SIZES, head_dim=8, rope_parameters=plain(500.0)),
    "qwen3": Qwen3Config(**SIZES, head_dim=8, attention_bias=True, rope_parameters=plain(500.0)),
    "llama-3.1": LlamaConfig(
        **SIZES, rope_parameters={**LLAMA3, "rope_theta": 500.0}, max_position_embeddings=256
    ),
    "mistral": MistralConfig(
        **SIZES, head_dim=8, rope_parameters=plain(500.0), max_position_embeddings=64
    ),
}
"""As transformers 5 writes them: the rotation stands in ``rope_parameters`` alone."""
READ = """
import json, sys, torch, transformers
from pathlib import Path
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
found, ends = {}, {}
for folder in sorted(Path(sys.argv[1]).iterdir()):
    model = AutoModelForCausalLM.from_pretrained(folder / "model", attn_implementation="eager")
    ends[folder.name] = model.generation_config.eos_token_id, str(model.dtype)
    with torch.no_grad():
        found[folder.name] = model(torch.arange(int(sys.argv[3]))[None]).logits[0].float()
save_file(found, sys.argv[2])
print(json.dumps([transformers.__version__, ends]))
"""


@pytest.fixture(scope="module")
def exports(tmp_path_factory) -> Path:
    """Return a folder of exported models, each converted from one that transformers 5 wrote."""
    folder = tmp_path_factory.mktemp("exports")
    for name, config in MODELS.items():
        source = tmp_path_factory.mktemp("sources") / name
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
        model.generation_config = GenerationConfig(eos_token_id=[2, 5], pad_token_id=0)
        model.save_pretrained(source)
        assert "rope_theta" not in json.loads((source / "config.json").read_text())
        settings = {"model": source, "dtype": "float32", "output_dir": folder / name}
        convert_model.run(ConvertConfig.parse(settings, "convert"))
    return folder


@pytest.fixture(scope="module")
def wanted(exports) -> dict[str, torch.Tensor]:
    """The logits of our decoder."""
    tokens = torch.arange(TOKENS)
    pack = build_pack([(tokens.int().numpy(), torch.ones(TOKENS).numpy())])
    found = {}
    for name in MODELS:
        model = Decoder(read_arch(exports / name / "model"), backend="reference")
        load_weights(exports / name / "model", model)
        with torch.no_grad():
            found[name] = model.logits(pack)
    return found


def read_with(paths: list[Path], exports: Path, target: Path) -> tuple[str, dict[str, Any]]:
    """Read every export in a process whose packages come from ``paths`` first."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READ, str(exports), str(target), str(TOKENS)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    version, ends = json.loads(done.stdout.splitlines()[-1])
    return version, ends


def assert_equal(wanted: dict[str, torch.Tensor], target: Path, ends: dict[str, Any]) -> None:
    found = load_file(target)
    assert found.keys() == wanted.keys()
    for name, logits in wanted.items():
        torch.testing.assert_close(found[name], logits, rtol=1e-4, atol=1e-4, msg=name)
        assert ends[name] == [[2, 5], "torch.float32"]


def test_the_installed_transformers_reads_an_export_as_our_decoder(exports, wanted, tmp_path):
    _, ends = read_with([], exports, tmp_path / "found.safetensors")
    assert_equal(wanted, tmp_path / "found.safetensors", ends)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_older_transformers_reads_an_export_as_our_decoder(version, exports, wanted, tmp_path):
    packages = tmp_path / "packages"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    wheels = [f"transformers=={version}", *VERSIONS[version], *BESIDES]
    fetched = subprocess.run(
        [*command, str(packages), *wheels], capture_output=True, text=True, check=False
    )
    if fetched.returncode:
        pytest.skip(f"transformers {version} cannot be fetched: {fetched.stderr.strip()[-200:]}")
    read, ends = read_with([packages], exports, tmp_path / "found.safetensors")
    assert read == version
    assert_equal(wanted, tmp_path / "found.safetensors", ends)
