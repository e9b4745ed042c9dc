import pytest

from longrun.config.cluster import Cluster, load_cluster
from longrun.errors import ConfigError

SLURM = {"executor": "slurm", "job_dir": "/runs"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"partitoin": "x"}, r"unknown setting; did you mean partition\?"),
        ({"executor": "pbs"}, r"'local' or 'slurm'"),
        ({"job_dir": "runs"}, r"job_dir must start with /"),
        ({"time_limits": {"batch": "soon"}}, r"time_limits\.batch: is not a time: write 30m"),
        ({"mounts": ["data:/data"]}, r"mounts\.0\.host: must start with /"),
        ({"mounts": ["/a:/b:rx"]}, r"is not a mount"),
        ({"mounts": ["/a"]}, r"mounts needs container_runtime"),
        ({"mounts": ["/a,b:/c"]}, r"mounts\.0\.host: holds a comma or a colon"),
        ({"sbatch": ["qos=high"]}, r"'qos=high' is not an option; write --name=value"),
        ({"sbatch": ["--qos high"]}, r"'--qos high' is not an option; write --name=value"),
        ({"sbatch": ["--outp=x"]}, r"'--outp=x' is set by Longrun; remove it .* --log_dir"),
        ({"sbatch": ["-a1-3"]}, r"'-a1-3' is set by Longrun; remove it \(set num_parts\)"),
        ({"sbatch": ["--comment=a\nb"]}, r"holds a line break"),
        ({"memory": "16 GB"}, r"memory: is not an amount of memory: write 64G"),
        ({"memory": "1G\n"}, r"memory: holds a line break"),
        ({"account": "a\nb"}, r"account: holds a line break"),
        ({"partition": "a\x1b[2J"}, r"partition: holds a line break or another character"),
        ({"job_name_prefix": "a\u2028b"}, r"job_name_prefix: holds a line break"),
        ({"job_dir": "/runs\n/x"}, r"job_dir: holds a line break"),
        ({"job_dir": "/runs:2"}, r"job_dir holds ':', at which it would be split"),
        ({"job_dir": "/runs\\2"}, r"job_dir holds '.*', at which it would be split"),
        ({"env": {"A\n": "1"}}, r"'A.n' is not the name of a variable"),
        ({"env": {"UID": "1"}}, r"'UID' is set by bash itself"),
        ({"env": {"A": "\0"}}, r"env\.A: holds a character that no environment can hold"),
        ({"required_env": ["A;ls"]}, r"'A;ls' is not the name of a variable"),
        ({"ssh": {"host": "-oProxyCommand=x", "folder": "/"}}, r"is not the name of a host"),
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


def test_names_that_look_like_numbers_are_names():
    cluster = Cluster.parse({**SLURM, "account": 12345, "memory": 64000, "env": {"A": 1}}, "x")
    assert (cluster.account, cluster.memory, cluster.env["A"]) == ("12345", "64000", "1")


def test_account_and_partition_of_the_environment_stand_for_what_the_file_leaves_out(
    tmp_path, monkeypatch
):
    path = tmp_path / "big.yaml"
    path.write_text("executor: slurm\njob_dir: /runs\npartition: mine\n")
    monkeypatch.setenv("SBATCH_ACCOUNT", "group")
    monkeypatch.setenv("SBATCH_PARTITION", "theirs")
    cluster = load_cluster(str(path))
    assert (cluster.account, cluster.partition) == ("group", "mine")
    monkeypatch.setenv("SBATCH_ACCOUNT", "a\nb")
    with pytest.raises(ConfigError, match=r"SBATCH_ACCOUNT 'a.nb' holds a line break"):
        load_cluster(str(path))


def test_a_cluster_knows_what_finds_it_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my clusters"
    folder.mkdir()
    (folder / "big.yaml").write_text("executor: local\n")
    assert load_cluster("big", folder).option == f" --cluster big --config_dir '{folder}'"
    assert load_cluster(f"{folder}/big.yaml").option == f" --cluster '{folder}/big.yaml'"
    assert load_cluster("local").option == " --cluster local"
    monkeypatch.setenv("LONGRUN_CLUSTER", f"{folder}/big.yaml")
    assert load_cluster(None).option == ""
