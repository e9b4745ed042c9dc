"""The search: nothing illegal or too large is ranked, and the order is that of the times."""

from dataclasses import replace
from functools import cache

import pytest

from longrun.parallel.layouts import obstacle
from longrun.plan.lengths import find_workload
from longrun.plan.models import find_model
from longrun.plan.search import Planner
from longrun.plan.settings import PlanSettings, Rates


@cache
def planner(**settings: object) -> Planner:
    values = {"model": "7b", "num_nodes": 4, "global_batch_size": 32, **settings}
    config = PlanSettings.parse(values, "plan")
    return Planner(find_model(config.model), find_workload(config), config)


@cache
def whole_plan():
    return planner().plan(None)


def test_every_layout_is_ranked_or_rejected_for_a_reason():
    plan, choices = whole_plan(), list(planner().choices())
    assert len(plan.ranked) + len(plan.rejected) == len(choices) == len(set(choices))
    assert all(option.reason for option in plan.rejected)
    assert not any(option.reason for option in plan.ranked)


def test_what_is_ranked_is_legal_fits_and_is_in_order():
    plan, own = whole_plan(), planner()
    for option in plan.ranked:
        assert obstacle(option.choice.layout, own.arch) is None
        assert option.memory.total_bytes <= own.usable_bytes
        assert option.choice.layout.data <= 32
    times = [option.time.seconds for option in plan.ranked]
    assert times == sorted(times)


def test_the_few_best_are_the_best_of_all_one_of_each_kind():
    plan = planner().plan(5)
    firsts: dict[tuple[int, int, str], object] = {}
    for option in whole_plan().ranked:
        layout = option.choice.layout
        firsts.setdefault((layout.tensor, layout.context, layout.sharding), option)
    assert plan.ranked == list(firsts.values())[:5]
    assert plan.num_slower == len(whole_plan().ranked) - 5


def test_the_parts_of_a_step_are_all_there_and_none_is_negative():
    for option in whole_plan().ranked:
        time = option.time
        parts = (
            time.compute_seconds,
            time.talking_seconds,
            time.waiting_seconds,
            time.weights_seconds,
            time.optimizer_seconds,
        )
        assert min(parts) >= -1e-9
        assert time.seconds == pytest.approx(sum(parts))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"tensor_parallel": 8}, "tensor 8 does not divide the 4 key-value heads"),
        ({"tensor_parallel": 16}, "tensor 16 spans machines of 8 GPUs"),
        ({"context_parallel": 3}, "do not divide 32 ranks"),
        ({"sharding": "replicate", "recompute": "none"}, "GiB of 72.7"),
        ({"global_batch_size": 8, "context_parallel": 1}, "data 32 is more than the 8 packs"),
    ],
    ids=str,
)
def test_each_obstacle_is_named(settings, reason):
    plan = planner(**settings).plan(None)
    assert any(reason in (option.reason or "") for option in plan.rejected)


def test_what_is_held_fixed_is_held():
    fixed = {"tensor_parallel": 4, "context_parallel": 2, "sharding": "full", "shard_size": 4}
    plan = planner(**fixed, recompute="full").plan(None)
    (option,) = plan.ranked
    layout = option.choice.layout
    assert (layout.tensor, layout.context, layout.shards) == (4, 2, 4)
    assert option.choice.recompute == "full"


def test_faster_products_make_a_faster_plan_and_more_memory_never_a_slower_one():
    base = planner().plan(1).ranked[0].time.seconds
    fast = planner(rates=Rates(matrix_tflops=900.0)).plan(1).ranked[0].time.seconds
    roomy = planner(rates=Rates(memory_gib=139.0)).plan(1).ranked[0].time.seconds
    assert fast < base
    assert roomy <= base


def test_compact_states_are_looked_at_only_when_named_and_never_with_muon():
    assert {choice.states for choice in planner().choices()} == {"float32"}
    named = planner(states=("float32", "int8"), optimizers=("adamw", "muon"))
    kinds = {(choice.optimizer, choice.states) for choice in named.choices()}
    assert kinds == {("adamw", "float32"), ("adamw", "int8"), ("muon", "float32")}


def test_split_weights_are_looked_at_only_where_training_allows_them():
    named = planner(weights=("float32", "split"))
    split = [choice for choice in named.choices() if choice.weights == "split"]
    assert split
    assert all(choice.layout.sharding == "replicate" for choice in split)
    assert all(choice.layout.tensor == 1 for choice in split)


def test_days_follow_from_the_number_of_steps():
    own = planner(max_steps=1000)
    option = own.plan(1).ranked[0]
    assert own.days(option) == pytest.approx(1000 * option.time.seconds / 86400)
    assert planner().days(option) is None


def test_tokens_per_second_and_mfu_follow_from_the_time():
    own = planner()
    option = own.plan(1).ranked[0]
    tokens = own.workload.tokens_per_step / option.time.seconds
    assert own.tokens_per_second(option) == pytest.approx(tokens)
    assert 0.2 < own.flops_utilization(option) < 0.7
    twice = replace(option.time, compute_seconds=option.time.seconds + option.time.compute_seconds)
    slower = replace(option, time=twice)
    assert own.tokens_per_second(slower) == pytest.approx(tokens / 2)
