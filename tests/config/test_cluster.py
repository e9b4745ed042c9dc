import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrun.config.cluster import Cluster, load_cluster, parse_duration
from longrun.errors import ConfigError
from longrun.launch.script import format_limit

SLURM = {"executor": "slurm", "job_dir": "/runs"}


@given(st.integers(1, 400), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_every_way_to_write_a_time_means_the_same(days, hours, minutes, seconds):
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    assert parse_duration(f"{days}-{hours:02d}:{minutes:02d}:{seconds:02d}") == total
    assert parse_duration(f"{days}d{hours}h{minutes}m{seconds}s") == total
    assert parse_duration(f"{days * 24 + hours}:{minutes:02d}:{seconds:02d}") == total
    assert parse_duration(total) == total
    limit = parse_duration(format_limit(total))
    assert 0 <= limit - total < 60


@pytest.mark.parametrize("text", ["", "4", "4 h", "-3h", "soon", "1:2:3", "0m", True, None])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="is not a time"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"partitoin": "x"}, r"unknown setting; did you mean partition\?"),
        ({"executor": "pbs"}, r"'local' or 'slurm'"),
        ({"job_dir": "runs"}, r"job_dir must start with /"),
        ({"time_limits": {"batch": "soon"}}, r"time_limits\.batch: is not a time: write 30m"),
        ({"mounts": ["data:/data"]}, r"mounts\.0: both sides of a mount start with /"),
        ({"mounts": ["/a:/b:rx"]}, r"is not a mount"),
        ({"mounts": ["/a"]}, r"mounts needs container_runtime"),
        ({"sbatch": ["qos=high"]}, r"'qos=high' is not an option"),
        ({"env": {"A B": "1"}}, r"'A B' is not the name of a variable"),
        ({"executor": "local", "account": "a"}, r"account has no effect with executor: local"),
        ({"executor": "local", "container_runtime": "pyxis"}, r"pyxis is a part of Slurm"),
    ],
    ids=str,
)
def test_a_wrong_cluster_file_is_one_line(changes, message):
    with pytest.raises(ConfigError, match=message):
        Cluster.parse({**SLURM, **changes}, "x.yaml")


def test_a_cluster_is_found_by_name_folder_path_or_variable(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for variable in ("LONGRUN_CLUSTER", "LONGRUN_CLUSTER_CONFIGS"):
        monkeypatch.delenv(variable, raising=False)
    for folder, partition in (("cluster_configs", "one"), ("elsewhere", "two")):
        (tmp_path / folder).mkdir()
        text = f"executor: slurm\njob_dir: /runs\npartition: {partition}\n"
        (tmp_path / folder / "big.yaml").write_text(text)
    assert load_cluster(None).executor == "local"
    assert load_cluster("big").partition == "one"
    assert load_cluster("big").name == "big"
    assert load_cluster("big", tmp_path / "elsewhere").partition == "two"
    assert load_cluster("elsewhere/big.yaml").partition == "two"
    monkeypatch.setenv("LONGRUN_CLUSTER_CONFIGS", "elsewhere")
    assert load_cluster("big").partition == "two"
    monkeypatch.setenv("LONGRUN_CLUSTER", "cluster_configs/big.yaml")
    assert load_cluster(None).partition == "one"
    assert load_cluster("local").executor == "local"
    with pytest.raises(ConfigError, match=r"cluster 'bigg': .* did you mean big\?"):
        load_cluster("bigg")
