import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrun.config.cluster import Cluster, JobSettings, read_cluster
from longrun.config.durations import format_duration, parse_duration
from longrun.launch.script import format_limit


@given(st.integers(0, 400), st.integers(0, 23), st.integers(0, 59), st.integers(1, 59))
def test_every_way_to_write_a_time_means_what_slurm_means(days, hours, minutes, seconds):
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    assert parse_duration(f"{days}-{hours:02d}:{minutes:02d}:{seconds:02d}") == total
    assert parse_duration(f"{days}d{hours}h{minutes}m{seconds}s") == total
    assert parse_duration(f"{days * 24 + hours}:{minutes}:{seconds}") == total
    assert parse_duration(f"{total // 60}:{seconds:02d}") == total
    assert parse_duration(format_duration(total)) == total
    assert parse_duration(f"{days + 1}-{hours}") == ((days + 1) * 24 + hours) * 3600
    assert parse_duration(minutes + 1) == parse_duration(str(minutes + 1)) == (minutes + 1) * 60
    limit = parse_duration(format_limit(total))
    assert 0 <= limit - total < 60


@pytest.mark.parametrize(
    "text",
    ["", "4 h", "-3h", "soon", "1:2:3:4", "0m", "0", "1-", "1-2:3:4:5", "UNLIMITED", 1.5,
     "9" * 5000, "30:00\n1", True, None],
    ids=repr,
)  # fmt: skip
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="is not a time"):
        parse_duration(text)


@pytest.mark.parametrize("written", ["30:00", "'30:00'", "30", "30m"])
def test_thirty_minutes_are_thirty_minutes_quoted_or_not_and_written_back(written, tmp_path):
    path = tmp_path / "big.yaml"
    path.write_text(f"executor: slurm\njob_dir: /runs\ntime_limits: {{batch: {written}}}\n")
    cluster = read_cluster(path)
    assert cluster.time_limits == {"batch": 1800}
    again = Cluster.parse(cluster.model_dump(exclude_unset=True), "again")
    assert again.time_limits == cluster.time_limits


def test_settings_of_a_job_are_read_back_as_they_were_written():
    settings = JobSettings.parse({"time_limit": 90}, "x")
    assert settings.time_limit == 5400
    assert JobSettings.parse(settings.model_dump(mode="json"), "x") == settings
