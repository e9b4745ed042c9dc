import json

from longrun.config.stages import SynthesizeConfig
from longrun.data.records.prompts import load_prompt
from longrun.data.synthetic import synthesize

SMALL = {"num_cot": 7, "num_tir": 7, "num_genselect": 6, "num_held_out": 4}


def test_records_benchmarks_and_prompts_are_written(tmp_path, samples):
    config = SynthesizeConfig(output_dir=tmp_path / "one", **SMALL)
    manifest = synthesize.run(config)
    counts = [manifest.counts[mode] for mode in ("cot", "tir", "genselect")]
    assert counts == [7, 7, 6]
    for folder, expected in (("train", 20), ("held-out", 12)):
        rows = [
            json.loads(line)
            for path in (tmp_path / "one" / folder).iterdir()
            for line in path.read_text().splitlines()
        ]
        assert len(rows) == expected
    fields = load_prompt(tmp_path / "one" / "prompts" / "tir.yaml").fields()
    assert fields == {"problem", "total_code_executions"}
    synthesize.run(SynthesizeConfig(output_dir=tmp_path / "two", **SMALL))
    assert samples.contents(tmp_path / "one") == samples.contents(tmp_path / "two")
