"""A run of every stage that needs no network, in seconds: what is attacked, and compared."""

import os
from pathlib import Path

import yaml

from longrun.cli.main import app
from longrun.config.recipe import Recipe, StagePlan, resolve

RECIPE = yaml.safe_load("""
name: tiny
stages:
  problems: {verb: synthesize, num_cot: 40, num_tir: 40, num_genselect: 20, num_held_out: 4}
  tokenizer: {verb: train_tokenizer, data: "${problems}/train/*.jsonl", vocab_size: 400}
  base: {verb: init_model, tokenizer: "${tokenizer}", num_layers: 1, hidden_size: 32, num_heads: 2,
         num_kv_heads: 1, intermediate_size: 64, std: 0.3}
  first: {verb: prepare, part: 1/2, data: "${problems}/train/*.jsonl", tokenizer: "${base}",
          validation_share: 0.1, part_bytes: 65536, num_workers: 1}
  second: {verb: prepare, part: 2/2, data: "${problems}/train/*.jsonl", tokenizer: "${base}",
           validation_share: 0.1, part_bytes: 65536, num_workers: 1}
  prepare: {data: "${problems}/train/*.jsonl", tokenizer: "${base}", validation_share: 0.1,
            part_bytes: 65536, num_workers: 1}
  merge: {parts: ["${first}", "${second}"]}
  check_contamination:
    documents: "${prepare}"
    benchmarks: [{name: cot, path: "${problems}/held-out/cot.jsonl", mode: cot}]
  pack: {documents: "${prepare}", pack_size: 1024, num_epochs: 2}
  arrays: {verb: convert_packs, packs: "${pack}", pad_id: 0}
  unpacked: {verb: convert_packs, arrays: "${arrays}/packed_1024_seed0", like: "${prepare}",
             pad_id: 0}
  verify: {packs: "${pack}", model: "${base}", num_documents: 2, document_tokens: 32}
  train: {packs: "${pack}", model: "${base}", max_steps: 4, global_batch_size: 2,
          save_interval: 2, validation_interval: 2, max_epochs: 9, verify: false}
  average: {checkpoints: "${train}", steps: "last:2", export_members: true, dtype: float32}
  half: {verb: convert, model: "${average}", dtype: bfloat16}
  generate:
    models: {base: "${base}", average: "${average}"}
    conversation: "${prepare}"
    max_tokens: 16
    samples: 2
    temperature: 0.5
    sandbox: {isolation: process}
    benchmarks:
      - {name: cot, path: "${problems}/held-out/cot.jsonl", mode: cot}
      - {name: tir, path: "${problems}/held-out/tir.jsonl", mode: tir}
  group_candidates: {predictions: "${generate}", group_size: 2, repeats: 2}
  evaluate: {predictions: "${generate}"}
  report: {stages: ["${prepare}", "${pack}", "${train}", "${average}", "${evaluate}"]}
""")


def build(folder: Path) -> Recipe:
    """Run every stage of the recipe in ``folder``, in this process, and return it."""
    recipe = open_tiny(folder)
    for stage in recipe.stages:
        run_stage(folder, stage)
    return recipe


def open_tiny(folder: Path) -> Recipe:
    """Resolve the recipe; paths in it are relative to ``folder``, which becomes the current one."""
    os.chdir(folder)
    return resolve(RECIPE, [], "tiny")


def run_stage(folder: Path, stage: StagePlan) -> None:
    """Run one stage in this process, as its verb does; errors are raised."""
    settings = folder / f"{stage.name}.yaml"
    stage.config.save(settings)
    app([stage.verb, str(settings)], standalone_mode=False)
