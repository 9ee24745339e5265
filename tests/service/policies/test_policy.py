from dataclasses import replace

import numpy as np
import pytest

from service.evidence import Grouping
from service.policies.policy import POLICY, Labelled, Policy, PolicyError, Target, make_policy
from tests.service.policies.factory import STATE, TARGET, labelled, policy


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
    certificate = made.certificate(TARGET)
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


def test_a_policy_survives_being_written_and_read() -> None:
    made = policy(targets=(TARGET, Target(0.001, 0.01)))
    read = POLICY.validate_json(POLICY.dump_json(made))
    assert read == made
    assert read.certificate(Target(0.001, 0.01)) is not None
    assert read.certificate(Target(0.3, 0.3)) is None


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
    certificate = make(labelled(400), certification).certificate(TARGET)
    assert certificate is not None
    assert certificate.labels == 500


@pytest.mark.parametrize(
    ("development", "certification", "message"),
    [
        (labelled(49), labelled(100), "49 development queries"),
        (labelled(100), labelled(49), "49 certification queries"),
        ([replace(query, correct=True) for query in labelled(100)], labelled(100), "right and wrong"),
        ([Labelled({"novelty": 1.0}, True)] * 60, labelled(100), "no input in common"),
    ],
)
def test_queries_that_make_no_policy_are_refused(
    development: list[Labelled], certification: list[Labelled], message: str
) -> None:
    with pytest.raises(PolicyError, match=message):
        make(development, certification)
