import pytest
from tokenizers import Tokenizer

from longrun.config.stages import TrainTokenizerConfig
from longrun.data.synthetic import train_tokenizer
from longrun.errors import InputError


def test_its_folder_is_a_tokenizer_that_knows_the_words_of_records_and_prompts(samples, tmp_path):
    data = samples.write_jsonl(tmp_path / "a.jsonl", samples.records(50))
    prompt = tmp_path / "prompt.yaml"
    prompt.write_text("user: Quickly {problem}")
    config = TrainTokenizerConfig(
        output_dir=tmp_path / "out", data=[data], prompts=[prompt], vocab_size=900
    )
    manifest = train_tokenizer.run(config)
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert tokenizer.encode("Quickly compute").tokens == ["Quickly", "\u0120compute"]
    assert manifest.counts["vocabulary"] == tokenizer.get_vocab_size()
    assert set(manifest.outputs) == {"tokenizer.json", "tokenizer_config.json"}


def test_a_record_without_text_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"problem": "x"}\n')
    config = TrainTokenizerConfig(output_dir=tmp_path / "out", data=[tmp_path / "a.jsonl"])
    with pytest.raises(InputError, match=r"a\.jsonl:1: column generated_solution is missing"):
        train_tokenizer.run(config)
