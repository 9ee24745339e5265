"""Reading a file of policies without changing it, and what the doctor makes of what is kept."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from models.bundle import Bundle
from service.checks.findings import Kind
from service.checks.gallery import examine_policies
from service.policies.policy import Policy
from service.policies.reading import read_policies
from service.policies.store import Answer, PolicyStore, PolicyStoreError
from tests.service.policies.factory import TARGET, policy


@pytest.fixture(scope="module")
def shop() -> Policy:
    return policy()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "policies.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[PolicyStore]:
    store = PolicyStore(path)
    yield store
    store.close()


def fail_audits(store: PolicyStore, shop: Policy, count: int = 60) -> None:
    """Answers that were all wrong, until the alarm is raised."""
    answers = [Answer(str(n), shop.name, shop.created, TARGET, True, 0.0) for n in range(count)]
    store.record(answers, {}, 1.0)
    for answer in answers:
        store.judge_answer(answer.request_id, 1.0, 2.0)


def test_where_no_file_is_nothing_is_kept_and_none_is_made(path: Path) -> None:
    assert read_policies(path).policies == {}
    assert not path.exists()


def test_a_file_is_read_while_a_server_uses_it_and_after(path: Path, store: PolicyStore, shop: Policy) -> None:
    store.put(shop)
    during = read_policies(path)
    store.close()
    before = path.read_bytes(), sorted(path.parent.iterdir())
    after = read_policies(path)

    assert during == after
    assert during.policies == {"shop": shop}
    assert (path.read_bytes(), sorted(path.parent.iterdir())) == before


def test_an_empty_file_holds_nothing(path: Path) -> None:
    path.touch()

    assert read_policies(path).policies == {}


def test_a_file_of_something_else_is_refused(path: Path) -> None:
    path.write_bytes(b"anything but SQLite" * 100)

    with pytest.raises(PolicyStoreError, match="CANDOR_POLICIES"):
        read_policies(path)


def test_policies_whose_promise_may_not_hold_are_found(
    path: Path, store: PolicyStore, shop: Policy, bundle: Bundle
) -> None:
    ours = replace(shop, name="ours", bundle_hash=bundle.hash)
    for one in (shop, ours):
        store.put(one)

    def found(items: int | None) -> list[tuple[Kind, str]]:
        findings = list(examine_policies(path, bundle, items, 0.1))
        assert findings[0].kind is Kind.POLICIES_READ
        return [(finding.kind, finding.found.split()[0].rstrip(":")) for finding in findings[1:]]

    assert found(None) == [(Kind.POLICY_STALE, "shop")]
    assert found(ours.gallery.items) == [(Kind.POLICY_STALE, "shop")]
    assert found(2 * ours.gallery.items) == [(Kind.POLICY_STALE, "ours"), (Kind.POLICY_STALE, "shop")]
    fail_audits(store, ours)
    assert found(None) == [(Kind.POLICY_ALARMED, "ours"), (Kind.POLICY_STALE, "shop")]
