"""Returns and advantages, held to a slow loop that says what they are."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.recipes.advantages import (
    advantages_and_returns,
    explained_variance,
    masked_mean,
    token_rewards,
    value_loss,
    whiten,
)

NUMBER = st.floats(-5, 5, width=32)


@st.composite
def answers(draw):
    """(rewards, values, mask) of a few answers, with holes in the mask."""
    count, length = draw(st.integers(1, 3)), draw(st.integers(1, 7))
    table = st.lists(
        st.lists(NUMBER, min_size=length, max_size=length), min_size=count, max_size=count
    )
    holes = st.lists(
        st.lists(st.booleans(), min_size=length, max_size=length), min_size=count, max_size=count
    )
    return draw(table), draw(table), draw(holes)


def slow(rewards, values, mask, gamma, lam):
    """Sums of discounted surprises over the real tokens, each from its definition."""
    found = [[0.0] * len(row) for row in rewards]
    for row in range(len(rewards)):
        real = [token for token in range(len(rewards[row])) if mask[row][token]]
        for place, token in enumerate(real):
            total = 0.0
            for steps, later in enumerate(real[place:]):
                follower = real[place + steps + 1 :]
                next_value = values[row][follower[0]] if follower else 0.0
                surprise = rewards[row][later] + gamma * next_value - values[row][later]
                total += (gamma * lam) ** steps * surprise
            found[row][token] = total
    return found


@settings(deadline=None, max_examples=150)
@given(table=answers(), gamma=st.floats(0, 1), lam=st.floats(0, 1))
def test_advantages_are_what_the_definition_says(table, gamma, lam):
    rewards, values, mask = table
    tensors = [torch.tensor(item, dtype=torch.float64) for item in (rewards, values)]
    real = torch.tensor(mask, dtype=torch.float64)
    advantages, returns = advantages_and_returns(*tensors, real, gamma, lam)
    wanted = torch.tensor(slow(rewards, values, mask, gamma, lam), dtype=torch.float64)
    torch.testing.assert_close(advantages, wanted, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(returns, (wanted + tensors[1]) * real, atol=1e-9, rtol=1e-9)


def test_without_values_and_discount_an_advantage_is_the_reward_to_go():
    rewards = torch.tensor([[1.0, 2.0, 3.0, 9.0]])
    mask = torch.tensor([[1, 1, 1, 0]])
    advantages, _ = advantages_and_returns(rewards, torch.zeros(1, 4), mask, 1.0, 1.0)
    assert advantages.tolist() == [[6.0, 5.0, 3.0, 0.0]]


def test_the_score_stands_on_the_last_token_and_the_penalty_on_each():
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 0]])
    ratio = torch.tensor([[0.5, -1.0, 7.0], [0.0, 0.0, 2.0], [1.0, 1.0, 1.0]])
    found = token_rewards(torch.tensor([10.0, 20.0, 30.0]), ratio, mask, 0.1)
    torch.testing.assert_close(
        found, torch.tensor([[-0.05, 10.1, 0.0], [0.0, 0.0, 19.8], [0.0, 0.0, 0.0]])
    )


def test_whitening_leaves_padding_out():
    values, mask = torch.tensor([[1.0, 2.0, 3.0, 99.0]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    found = whiten(values, mask)
    assert found[0, 3] == 0
    assert float(masked_mean(found, mask)) == pytest.approx(0, abs=1e-6)
    assert float(masked_mean(found**2, mask)) == pytest.approx(1, abs=1e-5)


def test_explained_variance_is_one_for_the_returns_themselves():
    returns, mask = torch.tensor([[1.0, 2.0, 4.0]]), torch.ones(1, 3)
    assert explained_variance(returns + 5, returns, mask) == pytest.approx(1)
    assert explained_variance(torch.zeros(1, 3), returns, mask) == pytest.approx(0)
    assert explained_variance(-returns, returns, mask) < 0
    assert explained_variance(returns, torch.ones(1, 3), mask) == 0


def test_a_value_that_leaves_its_range_is_held_to_the_worse_error():
    old, returns, mask = (
        torch.zeros(1, 3),
        torch.tensor([[1.0, 1.0, 0.0]]),
        torch.tensor([[1.0, 1.0, 0.0]]),
    )
    values = torch.tensor([[0.1, 0.9, 5.0]])
    found = value_loss(values, old, returns, mask, 0.2)
    torch.testing.assert_close(found, 0.5 * torch.tensor([[0.81, 0.64, 0.0]]))
