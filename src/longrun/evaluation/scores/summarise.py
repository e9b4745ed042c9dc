"""From grades to figures with error bars; pure functions, no files.

The problem is the unit everywhere: samples of one problem are not independent, so first each
problem gets its mean over samples, then problems are averaged (Miller 2024, arXiv:2411.00640).
A worked trace: 3 problems, 2 samples each, right or wrong as 1 or 0:

    (1, 1) (1, 0) (0, 0)  ->  problem means 1, 0.5, 0  ->  pass@1 0.5, standard error 0.289
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from statistics import fmean, stdev

import msgspec

from longrun.evaluation.grading.notation import normalise
from longrun.evaluation.grading.numerals import read_number
from longrun.evaluation.scores.at_k import best_at_k, choose_ks, majority_at_k, pass_at_k
from longrun.formats.predictions import AtK, DifferenceRow, Grade, SummaryRow

Z_95 = 1.959963984540054
"""Standard normal quantile of a two-sided 95 % interval."""
Rewards = Mapping[tuple[str, int], float]
"""(row id, sample) -> reward of the solution."""
Chances = Mapping[str, float]
"""Unit -> share of right candidates: what a blind choice scores there."""


def summarise(
    model: str,
    benchmark: str,
    grades: Sequence[Grade],
    chances: Chances | None = None,
    rewards: Rewards | None = None,
) -> SummaryRow:
    """Summarise the grades of one model on one benchmark.

    ``chances`` are those of a selection benchmark; ``rewards`` must hold every solution.
    """
    groups = by_problem(grades)
    means = list(problem_means(grades).values())
    credits = [majority_credit(group) for group in groups.values()]
    known = [(chances or {})[unit] for unit in groups if unit in (chances or {})]
    return SummaryRow(
        model=model,
        benchmark=benchmark,
        mode="+".join(sorted({grade.mode for grade in grades})),
        problems=len(means),
        samples=round(len(grades) / len(means)),
        pass_at_1=fmean(means),
        standard_error=standard_error(means),
        sampling_error=sampling_error(groups.values()),
        interval=wilson_interval(means, samples=len(grades) / len(means)),
        majority=fmean(credits),
        majority_interval=wilson_interval(credits, samples=1),
        no_answer_rate=fmean(grade.verdict == "no answer" for grade in grades),
        unfinished_rate=fmean(
            grade.verdict == "no answer" and grade.finish != "stop" for grade in grades
        ),
        timed_out_rate=fmean(grade.verdict == "timed out" for grade in grades),
        mean_tokens=fmean(grade.tokens for grade in grades),
        code_calls=fmean(grade.code_calls for grade in grades),
        code_errors=fmean(grade.code_errors for grade in grades),
        chance=fmean(known) if known else None,
        at_k=_at_every_k(list(groups.values()), rewards),
    )


def summarise_parts(
    model: str,
    benchmark: str,
    grades: Sequence[Grade],
    chances: Chances | None = None,
    rewards: Rewards | None = None,
) -> list[SummaryRow]:
    """Summarise every source and mode apart; nothing when the benchmark has only one."""
    parts: dict[tuple[str, str], list[Grade]] = defaultdict(list)
    for grade in grades:
        parts[grade.source, grade.mode].append(grade)
    if len(parts) < 2:
        return []
    return [
        msgspec.structs.replace(summarise(model, benchmark, part, chances, rewards), source=source)
        for (source, _), part in parts.items()
    ]


def by_problem(grades: Iterable[Grade]) -> dict[str, list[Grade]]:
    """Group grades by problem, in order of first appearance."""
    groups: dict[str, list[Grade]] = defaultdict(list)
    for grade in grades:
        groups[grade.unit].append(grade)
    return dict(groups)


def problem_means(grades: Iterable[Grade]) -> dict[str, float]:
    """Return the share of right samples of each problem."""
    return {
        problem: fmean(grade.correct for grade in group)
        for problem, group in by_problem(grades).items()
    }


def standard_error(means: Sequence[float]) -> float | None:
    """Return the standard error of the mean over problems; None for a single problem."""
    return stdev(means) / math.sqrt(len(means)) if len(means) > 1 else None


def sampling_error(groups: Iterable[Sequence[Grade]]) -> float | None:
    """Return the part of the standard error that comes from sampling; None with one sample.

    The variance of a problem's mean over k samples is estimated by p (1 - p) / (k - 1). What is
    left of ``standard_error`` comes from which problems were asked, and no sample removes it.
    """
    variances = []
    for group in groups:
        if len(group) < 2:
            return None
        p = fmean(grade.correct for grade in group)
        variances.append(p * (1 - p) / (len(group) - 1))
    return math.sqrt(sum(variances)) / len(variances)


def wilson_interval(means: Sequence[float], samples: float) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of the mean of problem means.

    With one sample per problem it is Wilson's interval (1927), which stays inside [0, 1] and keeps
    a width at 0 % and 100 %. With more, the number of problems ``n`` is replaced by the effective
    sample size ``n * p (1 - p) / var``, ``var`` the variance of the problem means: several samples
    tell more than one, but never more than ``n * samples`` independent ones. Where every sample
    is right (or wrong) nothing can be said about the variance and ``n`` stands.

    >>> [round(bound, 3) for bound in wilson_interval([1.0] * 30, samples=1)]
    [0.886, 1.0]
    """
    count, p = len(means), fmean(means)
    effective = float(count)
    if 0.0 < p < 1.0:
        variance = fmean((mean - p) ** 2 for mean in means)
        effective = min(count * p * (1 - p) / max(variance, 1e-12), count * samples)
    spread = Z_95**2 / effective
    middle = (p + spread / 2) / (1 + spread)
    half = Z_95 / (1 + spread) * math.sqrt(p * (1 - p) / effective + spread / (4 * effective))
    return max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half))


def majority_credit(grades: Sequence[Grade]) -> float:
    """Return what a vote of the samples of one problem scores.

    All right answers are one class, whatever their spelling; wrong ones are classes by value or
    normalised text; samples without an answer do not vote. Classes that tie share the credit.
    """
    right, others, _ = count_votes(grades)
    most = max([right, *others])
    return 1.0 / (1 + others.count(most)) if right == most > 0 else 0.0


def count_votes(grades: Sequence[Grade]) -> tuple[int, list[int], int]:
    """Return the votes for the right answer, for each wrong one, and the samples without any."""
    votes = Counter(
        answer_class(grade.predicted_answer)
        for grade in grades
        if grade.predicted_answer is not None and not grade.correct
    )
    right = sum(grade.correct for grade in grades)
    return right, list(votes.values()), len(grades) - right - votes.total()


def answer_class(answer: str) -> Fraction | tuple[str]:
    """Return what two answers have in common when they say the same number or the same text."""
    number = read_number(answer)
    return (normalise(answer),) if number is None else number.value


def _at_every_k(groups: Sequence[Sequence[Grade]], rewards: Rewards | None) -> list[AtK]:
    """Return the figures at k = 1, 2, 4, ... samples, as many as every problem has."""
    ks = choose_ks(min(map(len, groups)))
    if not ks:
        return []
    majorities = [majority_at_k(*count_votes(group), ks) for group in groups]
    return [
        _at_k(k, groups, [values[place] for values in majorities], rewards)
        for place, k in enumerate(ks)
    ]


def _at_k(
    k: int,
    groups: Sequence[Sequence[Grade]],
    majorities: Sequence[float],
    rewards: Rewards | None,
) -> AtK:
    # At most this many choices of k samples of a problem share no sample.
    apart = min(map(len, groups)) / k
    passes = [pass_at_k(len(group), sum(grade.correct for grade in group), k) for group in groups]
    best = None
    if rewards is not None:
        scored = [
            [(rewards[grade.id, grade.sample], grade.correct) for grade in group]
            for group in groups
        ]
        best = [best_at_k(samples, k) for samples in scored]
    return AtK(
        k=k,
        pass_at_k=fmean(passes),
        pass_interval=wilson_interval(passes, samples=apart),
        majority=fmean(majorities),
        majority_interval=wilson_interval(majorities, samples=apart),
        best=None if best is None else fmean(best),
        best_interval=None if best is None else wilson_interval(best, samples=apart),
    )


def difference(
    model: str, baseline: str, benchmark: str, grades: Mapping[str, Sequence[Grade]]
) -> DifferenceRow | None:
    """Compare two models on the problems that both were given; None when there are none.

    The interval is Agresti and Min's (2005) adjusted Wald interval for matched pairs, half a
    pseudo-problem added to each of right/right, right/wrong, wrong/right and wrong/wrong, so that
    it keeps a width when the two agree on every problem. ``grades`` maps model to grades.
    """
    ours, theirs = problem_means(grades[model]), problem_means(grades[baseline])
    shared = [problem for problem in ours if problem in theirs]
    if not shared:
        return None
    differences = [ours[problem] - theirs[problem] for problem in shared]
    return DifferenceRow(
        model=model,
        baseline=baseline,
        benchmark=benchmark,
        mode="+".join(sorted({grade.mode for grade in grades[model]})),
        problems=len(shared),
        difference=fmean(differences),
        standard_error=standard_error(differences),
        interval=paired_interval(differences),
    )


def paired_interval(differences: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of differences in [-1, 1]; see ``difference``."""
    count = len(differences) + 2
    middle = sum(differences) / count
    variance = (sum(value**2 for value in differences) + 1) / count - middle**2
    half = Z_95 * math.sqrt(variance / count)
    return max(-1.0, middle - half), min(1.0, middle + half)
