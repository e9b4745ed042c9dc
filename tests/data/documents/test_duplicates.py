import json

import pytest

from longrun.data.documents import prepare
from longrun.errors import InputError
from longrun.formats.documents import DocumentSet


def lines_kept(folder) -> list[int]:
    found = DocumentSet.open(folder / "train")
    return [found.origin(at).line for at in range(len(found))]


@pytest.fixture
def data(samples, tmp_path):
    rows = [row | {"inference_mode": "cot"} for row in samples.records(200)]
    rows[150] = rows[3] | {"generated_solution": "again \\\\boxed{1}"}
    rows[180] = rows[3]
    rows[199] = rows[10]
    for at, row in enumerate(rows):
        if at not in (150, 180, 199):
            row["problem"] = f"Find {at}."
    rows[150]["problem"] = " Find\n3."
    rows[180]["problem"], rows[199]["problem"] = "Find 3.", "Find 10."
    return samples.write_jsonl(tmp_path / "records.jsonl", rows)


@pytest.mark.parametrize(("by", "dropped"), [("problem", {151, 181, 200}), ("record", {181, 200})])
@pytest.mark.parametrize("num_workers", [1, 2])
def test_the_first_of_equal_records_stays(by, dropped, num_workers, data, make_config, tmp_path):
    config = make_config(
        data=data, filters=[{"duplicates": by}], part_bytes=65536, num_workers=num_workers
    )
    ledger = prepare.run(config).ledger
    assert set(range(1, 201)) - set(lines_kept(tmp_path / "out")) == dropped
    assert ledger.dropped == {"filter duplicates": len(dropped)}
    assert {path.suffix for path in (tmp_path / "out" / "parts").iterdir()} == {".json"}


def test_a_broken_record_is_named_already_here(data, make_config):
    with open(data, "a") as file:
        file.write(json.dumps({"problem": 3}) + "\n")
    with pytest.raises(InputError, match=r"records\.jsonl:201: column problem: expected text"):
        prepare.run(make_config(data=data, filters=[{"duplicates": "problem"}]))
