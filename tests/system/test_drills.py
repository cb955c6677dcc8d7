"""Real runs on a real cluster, something going wrong half way: the quick ones of `jobs/drill/drill.py`."""

import pytest
from _faults import FAULTS
from drill import ground

FASTER = ("search.members=6", "members.net.epochs=10")


@pytest.fixture(scope="module")
def here():
    with ground(overrides=FASTER) as found:
        yield found


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["actor", "node", "driver"])
def test_no_member_is_lost_and_what_is_deployed_is_the_same(here, name):
    """What is deployed is compared, to the bit, with a run that nothing happened to; a further attempt shows in what
    was trained."""
    found = here.drill(name, FAULTS[name], seed=name)
    assert found.fine, found
    assert found.attempts >= 6
    assert name != "node" or any("its node is lost" in line for line in found.said), found.said
