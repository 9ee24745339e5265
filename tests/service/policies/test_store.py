import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from service.policies.policy import Policy
from service.policies.promise import Target
from service.policies.store import (
    KEEP_ANSWERS_S,
    WINDOW,
    Answer,
    OtherVerdict,
    PolicyStore,
    PolicyStoreError,
    UnknownAnswer,
)
from tests.service.policies.factory import TARGET, labelled, policy


@pytest.fixture(scope="module")
def shop() -> Policy:
    return policy()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PolicyStore]:
    store = PolicyStore(tmp_path / "policies.sqlite")
    yield store
    store.close()


def answer(request_id: str, shop: Policy, accepted: bool = True, at: float = 0.0) -> Answer:
    return Answer(request_id, shop.name, shop.created, TARGET, accepted, at)


def test_policies_survive_a_restart(tmp_path: Path, shop: Policy) -> None:
    path = tmp_path / "deep" / "policies.sqlite"
    first = PolicyStore(path)
    first.put(shop)
    first.put(replace(shop, name="another"))
    first.close()

    second = PolicyStore(path)
    assert second.policies() == {"another": replace(shop, name="another"), "shop": shop}
    assert second.delete("another")
    assert not second.delete("another")
    assert list(second.policies()) == ["shop"]
    second.close()


def test_feedback_is_counted_once_and_survives_a_restart(tmp_path: Path, store: PolicyStore, shop: Policy) -> None:
    store.put(shop)
    store.record([answer("a", shop), answer("b", shop), answer("c", shop, accepted=False)], {}, 1.0)

    store.judge_answer("a", 0.0, 2.0)
    store.judge_answer("a", 0.0, 2.0)
    store.judge_answer("b", 1.0, 2.0)
    store.judge_answer("c", 1.0, 2.0)

    other = PolicyStore(tmp_path / "policies.sqlite")
    audit = other.audited("shop", TARGET).audit
    other.close()
    assert (audit.count, audit.loss) == (2, 1.0)
    assert audit == store.audited("shop", TARGET).audit
    with pytest.raises(OtherVerdict):
        store.judge_answer("a", 1.0, 3.0)
    with pytest.raises(UnknownAnswer):
        store.judge_answer("never", 0.0, 3.0)


def test_enough_wrong_answers_raise_an_alarm_that_stays(store: PolicyStore, shop: Policy) -> None:
    store.put(shop)
    store.record([answer(f"r{i}", shop) for i in range(400)], {}, 1.0)
    alarmed = [store.judge_answer(f"r{i}", float(i % 2), 10.0 + i)[1] for i in range(100)]
    first = next(i for i, each in enumerate(alarmed) if each is not None and each.alarmed_at is not None)
    assert first < 60
    for i in range(100, 400):
        store.judge_answer(f"r{i}", 0.0, 1000.0)
    assert store.audited("shop", TARGET).alarmed_at == 10.0 + first


def test_a_policy_made_anew_starts_without_audits(store: PolicyStore, shop: Policy) -> None:
    store.put(shop)
    store.record([answer("a", shop), answer("b", shop)], {"shop": [{"score": 1.0}]}, 1.0)
    store.judge_answer("a", 1.0, 1.0)
    newer = replace(shop, created="2026-02-02")
    store.put(newer)
    assert store.audited("shop", TARGET).audit.count == 0
    assert store.watched("shop") == {}
    assert store.judge_answer("b", 1.0, 1.0)[1] is None  # given under the older one
    assert store.audited("shop", TARGET).audit.count == 0


def test_old_answers_are_forgotten(store: PolicyStore, shop: Policy) -> None:
    store.put(shop)
    store.record([answer("old", shop, at=0.0)], {}, 0.0)
    store.record([answer("new", shop, at=KEEP_ANSWERS_S + 1)], {}, KEEP_ANSWERS_S + 1)
    with pytest.raises(UnknownAnswer):
        store.judge_answer("old", 0.0, KEEP_ANSWERS_S + 1)
    store.judge_answer("new", 0.0, KEEP_ANSWERS_S + 1)


def test_queries_like_those_of_the_certification_do_not_drift_and_others_do(store: PolicyStore, shop: Policy) -> None:
    store.put(shop)
    alike = [{**query.evidence, "score": shop.judge(query.evidence).score} for query in labelled(2 * WINDOW, seed=9)]
    store.record([], {"shop": alike[:300]}, 1.0)
    store.record([], {"shop": alike[300:]}, 2.0)
    watched = store.watched("shop")
    assert set(watched) == {"score", "uncertainty", "top_score", "margin"}
    assert all(each.looks == 2 and each.alarmed_at is None for each in watched.values())

    far = [{**query, "top_score": query["top_score"] / 3} for query in alike[:WINDOW]]
    store.record([], {"shop": far}, 3.0)
    watched = store.watched("shop")
    assert watched["top_score"].alarmed_at == 3.0
    assert watched["uncertainty"].alarmed_at is None
    assert watched["top_score"].last is not None
    assert watched["top_score"].last.psi > 0.25


def test_values_of_a_policy_that_is_gone_are_dropped(store: PolicyStore) -> None:
    store.record([], {"gone": [{"score": 1.0}]}, 1.0)
    assert store.watched("gone") == {}


def test_several_processes_lose_no_feedback(tmp_path: Path, store: PolicyStore, shop: Policy) -> None:
    store.put(shop)
    store.record([answer(f"r{i}", shop) for i in range(80)], {}, 1.0)

    def judge(start: int) -> None:
        own = PolicyStore(tmp_path / "policies.sqlite")
        for i in range(start, 80, 4):
            own.judge_answer(f"r{i}", 0.0, 1.0)
        own.close()

    threads = [threading.Thread(target=judge, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.audited("shop", TARGET).audit.count == 80


def test_a_place_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PolicyStoreError, match="CANDOR_POLICIES"):
        PolicyStore(tmp_path / "file" / "policies.sqlite").put(policy())
    (tmp_path / "no.sqlite").write_bytes(b"this is no database" * 100)
    with pytest.raises(PolicyStoreError, match="not a database"):
        PolicyStore(tmp_path / "no.sqlite").policies()


def test_nothing_is_made_before_there_is_a_policy(tmp_path: Path) -> None:
    store = PolicyStore(tmp_path / "policies.sqlite")
    assert store.policies() == {}
    assert not (tmp_path / "policies.sqlite").exists()
    store.put(policy())
    assert (tmp_path / "policies.sqlite").exists()
    store.close()


def test_promises_that_differ_in_k_alone_are_audited_apart(store: PolicyStore) -> None:
    several = Target(0.1, 0.1, 5)
    shop = policy(targets=(TARGET, Target(0.1, 0.1, "adaptive")))
    store.put(shop)
    store.record([replace(answer(f"r{k}", shop), target=replace(TARGET, k=k)) for k in (1, 5, "adaptive")], {}, 1.0)
    store.judge_answer("r5", 0.4, 1.0)
    assert store.answer("r5").target == several
    assert [store.audited("shop", replace(TARGET, k=k)).audit.loss for k in (1, 5, "adaptive")] == [0.0, 0.4, 0.0]
    with pytest.raises(OtherVerdict):
        store.judge_answer("r5", 0.6, 1.0)


def test_a_file_of_another_format_is_named(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "old.sqlite")
    database.execute("CREATE TABLE policies (name TEXT)")
    database.close()
    with pytest.raises(PolicyStoreError, match="format 0"):
        PolicyStore(tmp_path / "old.sqlite").policies()


def test_what_another_process_writes_changes_the_version(tmp_path: Path, store: PolicyStore, shop: Policy) -> None:
    assert store.version() is None
    store.put(shop)
    before = store.version()
    assert store.version() == before
    other = PolicyStore(tmp_path / "policies.sqlite")
    other.delete("shop")
    other.close()
    assert store.version() != before
