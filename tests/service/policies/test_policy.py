import json
from dataclasses import replace

import numpy as np
import pytest

from service.evidence import Grouping
from service.policies.making import PolicyError, make_policy
from service.policies.policy import POLICY, Policy
from service.policies.promise import Labelled, Target
from tests.service.policies.factory import STATE, TARGET, kept, labelled, policy


def make(development: list[Labelled], certification: list[Labelled], targets: tuple[Target, ...] = (TARGET,)) -> Policy:
    return make_policy(
        "p",
        targets,
        development,
        certification,
        bundle_hash="b",
        grouping=Grouping(),
        gallery=STATE,
        created="now",
    )


def test_accepted_matches_are_wrong_no_more_often_than_promised() -> None:
    made = policy()
    certificate = kept(made, TARGET).certificate
    assert certificate is not None
    assert certificate.threshold is not None
    fresh = labelled(20_000, seed=2)
    judged = [(made.judge(query.evidence).score <= certificate.threshold, query.correct) for query in fresh]
    accepted = [correct for accept, correct in judged if accept]
    assert 1 - np.mean(accepted) <= TARGET.alpha
    assert len(accepted) / len(judged) == pytest.approx(certificate.coverage, abs=0.05)
    assert certificate.coverage > 0.3


def test_the_probability_keeps_its_word() -> None:
    made = policy()
    fresh = labelled(5000, seed=3)
    probability = np.array([made.judge(query.evidence).p_correct for query in fresh])
    correct = np.array([query.correct for query in fresh])
    assert abs(probability.mean() - correct.mean()) < 0.03
    assert made.quality.ece < 0.06
    assert sum(made.quality.count) == made.quality.queries == 1500


def test_the_score_beats_each_of_its_inputs() -> None:
    ranked = policy().quality.r_auroc
    assert ranked is not None
    assert ranked["score"] >= max(value for name, value in ranked.items() if name != "score")


def test_selective_risk_is_that_of_the_queries_up_to_each_threshold() -> None:
    curves = policy().quality.selective_risk
    queries = labelled(1500, 1)
    uncertainty = np.array([query.evidence["uncertainty"] for query in queries])
    wrong = np.array([not query.correct for query in queries])
    assert set(curves) == {"score", "uncertainty"}
    assert len(curves["uncertainty"].threshold) == 100
    assert curves["uncertainty"].coverage[-1] == 1.0
    for threshold, coverage, risk in zip(*vars(curves["uncertainty"]).values(), strict=True):
        assert coverage == pytest.approx(np.mean(uncertainty <= threshold))
        assert risk == pytest.approx(np.mean(wrong[uncertainty <= threshold]))
    assert curves["score"].risk[50] < curves["uncertainty"].risk[50]


def test_a_policy_kept_by_an_older_version_is_read_without_curves() -> None:
    document = json.loads(POLICY.dump_json(policy()))
    del document["quality"]["selective_risk"]
    assert POLICY.validate_json(json.dumps(document)).quality.selective_risk == {}


def test_a_policy_survives_being_written_and_read() -> None:
    made = policy(targets=(TARGET, Target(0.001, 0.01)))
    read = POLICY.validate_json(POLICY.dump_json(made))
    assert read == made
    assert not kept(read, Target(0.001, 0.01)).feasible


def test_only_inputs_that_every_query_has_are_used() -> None:
    development, certification = labelled(100), labelled(100, 1)
    certification[7] = replace(certification[7], evidence={"top_score": 0.5, "uncertainty": 0.2})
    made = make(development, certification)
    assert set(made.confidence.inputs) == {"top_score", "uncertainty"}
    assert made.missing({"top_score": 0.3}) == ["uncertainty"]


def test_what_speaks_most_against_a_match_is_named() -> None:
    made = policy()
    sure = {"uncertainty": 0.1, "top_score": 0.95, "margin": 0.2, "result_uncertainty": 0.5}
    assert made.judge({**sure, "uncertainty": 1.0}).doubt == "uncertain_query"
    assert made.judge({**sure, "top_score": 0.2}).doubt in ("no_close_match", "ambiguous_match")


def test_groups_count_once() -> None:
    certification = [replace(query, group=f"g{i % 500}") for i, query in enumerate(labelled(1500, 1))]
    certificate = kept(make(labelled(400), certification), TARGET).certificate
    assert certificate is not None
    assert certificate.labels == 500


@pytest.mark.parametrize(
    ("development", "certification", "message"),
    [
        (labelled(49), labelled(100), "49 development queries"),
        (labelled(100), labelled(49), "49 certification queries"),
        ([replace(query, relevant=(True,)) for query in labelled(100)], labelled(100), "right and wrong"),
        ([Labelled({"novelty": 1.0}, (True,))] * 60, labelled(100), "no input in common"),
    ],
)
def test_queries_that_make_no_policy_are_refused(
    development: list[Labelled], certification: list[Labelled], message: str
) -> None:
    with pytest.raises(PolicyError, match=message):
        make(development, certification)


def test_precision_of_accepted_lists_is_as_promised() -> None:
    target = Target(0.15, 0.1, 5)
    made = make(labelled(400, 0, matches=5), labelled(1500, 1, matches=5), (TARGET, target))
    certificate = kept(made, target).certificate
    assert certificate is not None
    assert certificate.threshold is not None
    fresh = labelled(20_000, seed=2, matches=5)
    losses = [target.loss(each.relevant) for each in fresh if made.judge(each.evidence).score <= certificate.threshold]
    assert np.mean(losses) <= target.alpha
    assert certificate.coverage == pytest.approx(len(losses) / len(fresh), abs=0.05)
    assert certificate.coverage > 0.2


def test_sets_hold_a_relevant_match_for_easy_and_for_hard_queries() -> None:
    target = Target(0.1, 0.1, "adaptive")
    sets = kept(make(labelled(400), labelled(4000, 1, risk=0.8, matches=40), (target,)), target).sets
    assert sets is not None
    assert None not in sets.k
    held: dict[int, list[bool]] = {}
    for query in labelled(20_000, seed=2, risk=0.8, matches=40):
        uncertainty = query.evidence["uncertainty"]
        k = sets.k_of(uncertainty)
        assert k is not None
        held.setdefault(int(np.searchsorted(sets.edges, uncertainty)), []).append(query.first_relevant <= k)
    assert sorted(held) == [0, 1, 2, 3, 4]
    assert min(np.mean(each) for each in held.values()) >= 0.9 - 3 * np.sqrt(0.09 / 800)
    assert sets.k[-1] > sets.k[0]  # type: ignore[operator]


def test_near_duplicates_make_no_sets_longer_or_shorter() -> None:
    target = Target(0.1, 0.1, "adaptive")
    once = [replace(query, group=f"g{i}") for i, query in enumerate(labelled(400, 1, risk=0.8, matches=40))]
    sets, again = (kept(make(labelled(400), queries, (target,)), target).sets for queries in (once, once * 5))
    assert sets == again


@pytest.mark.parametrize(
    ("target", "relevant", "loss"),
    [
        (Target(0.1, 0.1), (True, False), 0.0),
        (Target(0.1, 0.1), (False, True), 1.0),
        (Target(0.1, 0.1, 4), (True, False, True, True, False), 0.25),
        (Target(0.1, 0.1, "adaptive"), (False, False, True), 0.0),
        (Target(0.1, 0.1, "adaptive"), (False, False), 1.0),
    ],
    ids=str,
)
def test_each_promise_counts_its_own_loss(target: Target, relevant: tuple[bool, ...], loss: float) -> None:
    assert target.loss(relevant) == loss


def test_promises_of_more_matches_than_were_labelled_are_refused() -> None:
    with pytest.raises(PolicyError, match="about 5 matches"):
        make(labelled(100), labelled(100, 1, matches=4), (Target(0.1, 0.1, 5),))
    plain = [replace(query, evidence={"top_score": query.evidence["top_score"]}) for query in labelled(100)]
    with pytest.raises(PolicyError, match="uncertainty of every"):
        make(plain, plain, (Target(0.1, 0.1, "adaptive"),))
