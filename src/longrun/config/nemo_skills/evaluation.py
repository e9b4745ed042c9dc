"""What ``eval`` and ``generate`` of the reference take; see ``sampling`` for their stages."""

import shlex
from typing import Any

from longrun.config.nemo_skills.option import EVERYWHERE, Table, idle, moved, refused, same

_ENGINES = {
    "vllm": "vllm",
    "sglang": "sglang",
    "openai": "endpoint",
    "trtllm": "built-in",
    "nemo": "built-in",
    "megatron": "built-in",
    "built-in": "built-in",
    "endpoint": "endpoint",
}
_MODES = {
    "generic/math": "cot",
    "math": "cot",
    "openmath/tir": "tir",
    "math-tir": "tir",
    "openmath/genselect": "genselect",
}


def _read_benchmarks(value: Any) -> list[Any]:
    """``gsm8k:4,mine.jsonl`` -> [("gsm8k", 4), ("mine.jsonl", 0)]; mappings stay."""
    names = value if isinstance(value, list) else str(value).split(",")
    found: list[Any] = []
    for name in names:
        if isinstance(name, dict):
            found.append((name, 0))
            continue
        text, _, number = str(name).strip().rpartition(":")
        named = (text, int(number)) if text and number.isdecimal() else (str(name).strip(), 0)
        if not named[0]:
            raise ValueError("is not a list of benchmarks, as in gsm8k:4,aime24")
        found.append(named)
    return found


def _read_engine(value: Any) -> str:
    if str(value) not in _ENGINES:
        raise ValueError(f"is not one of {', '.join(_ENGINES)}")
    return _ENGINES[str(value)]


def _read_address(value: Any) -> str:
    """``host:5000`` -> ``http://host:5000/v1``."""
    text = str(value).rstrip("/")
    address = text if "://" in text else f"http://{text}"
    return address if "/" in address.partition("://")[2] else f"{address}/v1"


def _read_mode(value: Any) -> str:
    if str(value) not in _MODES:
        raise ValueError(
            f"is none of {', '.join(_MODES)}: a model is asked with the prompts that it was trained"
            " with; others come with conversation=FOLDER_OF_PREPARE"
        )
    return _MODES[str(value)]


def _read_words(value: Any) -> list[str]:
    return [str(word) for word in value] if isinstance(value, list) else shlex.split(str(value))


def _read_limit(value: Any) -> Any:
    """-1 is no limit."""
    return None if value == -1 else value


_CHUNK_IDS = refused("run the same command again: what is done is left alone")
_SANDBOX = idle("a sandbox is started where a model calls code", flag=True)
_SHELL = refused("run it by `longrun run_cmd` and --run_after")
_TEMPLATE = idle("the model carries its chat template", plus=True)
_CONVERSATION = refused("the conversation of the model says it", plus=True)
_READING = idle("answers are read by our own rule", plus=True)
_NO_FILES = refused("name files in --benchmarks, as --benchmarks=mine.jsonl:4")

_SERVER: Table = {
    "model": moved("model"),
    "server_type": moved("engine", _read_engine),
    "server_address": moved("generate.endpoint.url", _read_address),
    "server_gpus": moved("gpus"),
    "server_nodes": same(1, because="a server is on one node"),
    "server_args": moved("arguments", _read_words),
    "server_entrypoint": refused("generate.server.command says it"),
    "starting_seed": moved("generate.seed"),
    "num_chunks": moved("chunks"),
    "chunk_ids": _CHUNK_IDS,
    "dependent_jobs": idle("a job that reaches its time limit continues by itself"),
    "rerun_done": refused("--replace deletes what is there"),
    "with_sandbox": _SANDBOX,
    "log_samples": idle("`longrun report` shows samples", flag=True),
    **{name: idle("metrics are files") for name in ("wandb_name", "wandb_group", "wandb_project")},
}

_INFERENCE: Table = {
    "inference.temperature": moved("temperature"),
    "inference.top_p": moved("top_p"),
    "inference.tokens_to_generate": moved("generate.max_tokens"),
    "inference.random_seed": moved("generate.seed"),
    "inference.timeout": moved("generate.endpoint.timeout_seconds"),
    "inference.top_k": same(0, -1, because="there is no bound of rank", instead="say top_p"),
    "inference.min_p": same(0, because="there is no such bound", instead="say top_p"),
    "inference.repetition_penalty": same(1, because="nothing is penalised"),
    "inference.top_logprobs": same(None, because="no probabilities are kept"),
    "inference.endpoint_type": idle("prompts go as tokens; endpoint.send says otherwise"),
    "prompt_config": moved("mode", _read_mode, plus=True),
    "prompt_template": _TEMPLATE,
    "tokenizer": idle("the model carries its tokenizer", plus=True),
    "code_tags": idle("the conversation of the model says it", plus=True),
    "system_message": _CONVERSATION,
    "examples_type": _CONVERSATION,
    "chat_template_kwargs.*": _CONVERSATION,
    "prompt_suffix": _CONVERSATION,
    "stop_phrase": _CONVERSATION,
    "code_execution": moved("mode", lambda value: "tir" if value else "cot", plus=True),
    "total_code_executions_in_prompt": moved("generate.max_code_executions", plus=True),
    "override_max_code_executions": idle("one number bounds prompt and execution", plus=True),
    "server.code_execution.max_code_executions": moved("generate.max_code_executions"),
    "server.code_execution.*": idle("calls run and are shown as in training"),
    "server.*": refused("generate.server and generate.endpoint say it"),
    "sandbox.*": idle("a sandbox is started where a model calls code"),
    "max_samples": moved("limit", _read_limit, plus=True),
    "batch_size": moved("generate.batch_size", plus=True),
    "max_concurrent_requests": moved("generate.endpoint.concurrency", plus=True),
    "skip_filled": idle("finished solutions are always kept", plus=True),
    "use_completions_api": idle("prompts go as tokens", plus=True),
    "add_generation_stats": idle("tokens are always counted", plus=True),
    "count_prompt_tokens": idle("tokens are always counted", plus=True),
    "generation_key": idle("the columns of predictions are fixed", plus=True),
    "parse_reasoning": _READING,
    "end_reasoning_string": _READING,
    "eval_type": same("math", None, because="answers are compared as mathematics", plus=True),
    "eval_config.*": refused("settings of `evaluate` say it, as evaluate.judge"),
}

EVAL: Table = {
    **EVERYWHERE,
    **_SERVER,
    **_INFERENCE,
    "output_dir": moved("output_dir"),
    "benchmarks": moved("benchmarks", _read_benchmarks),
    "skip_greedy": moved("skip_greedy", flag=True),
    "split": same(
        "test",
        None,
        because="a known benchmark is its test problems",
        instead="name the file of a split in --benchmarks, as --benchmarks=hle-math.jsonl:4",
    ),
    "num_jobs": idle("greedy and sampled solutions, and chunks, are a job each"),
    "extra_eval_args": same(
        "", None, because="grading has no such arguments", instead="settings of `evaluate` say it"
    ),
    "extra_datasets": _NO_FILES,
    "extra_datasets_type": _NO_FILES,
    "data_dir": _NO_FILES,
    "judge_model": moved("evaluate.judge.endpoint.model"),
    "judge_server_address": moved("evaluate.judge.endpoint.url", _read_address),
    "judge_server_type": idle("a judge is asked by the OpenAI chat interface"),
    "judge_server_gpus": refused("a judge is a server that runs: --judge_server_address"),
    "judge_server_nodes": same(1, because="a judge is a server that runs"),
    "judge_server_args": same("", None, because="a judge is a server that runs"),
}

GENERATE: Table = {
    **EVERYWHERE,
    **_SERVER,
    **_INFERENCE,
    "output_dir": moved("output_dir"),
    "benchmarks": moved("benchmarks", _read_benchmarks),
    "input_file": moved("benchmarks", _read_benchmarks, plus=True),
    "output_file": refused("--output_dir says where", plus=True),
    "generation_type": same(
        "generate",
        because="solutions are generated",
        instead="`longrun evaluate judge=...` and rewards=FILE are the others",
    ),
    "num_random_seeds": moved("samples"),
    "random_seeds": refused("say --num_random_seeds and --starting_seed"),
    "output_prefix": same("output", because="the names of files are fixed"),
    "preprocess_cmd": _SHELL,
    "postprocess_cmd": _SHELL,
    "eval_args": refused("`longrun eval` generates and evaluates"),
    "dataset": moved("benchmarks", _read_benchmarks, plus=True),
    "split": same("test", None, because="a known benchmark is its test problems", plus=True),
}
