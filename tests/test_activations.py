import pytest
import torch

from sae_lib.activations import ActivationStream, ContextOrder, seeded
from sae_lib.errors import BookError
from sae_lib.transformer import HOOK


@pytest.fixture
def stream(model, tokens):
    # 12 tokens a context; blocks of 4 batches of 24, so of 8 contexts.
    return ActivationStream(model, tokens, batch_size=24, seed=3, block_size=96)


def test_every_context_comes_once_an_epoch_and_epochs_differ(tokens):
    order = ContextOrder(tokens, 12, seed=0)
    first, second = order.contexts(0, 400), order.contexts(400, 400)
    whole = torch.from_numpy(tokens.contexts(range(400), 12))
    for epoch in (first, second):
        assert torch.equal(epoch[epoch[:, 0].argsort(stable=True)].sort(0).values, whole.sort(0).values)
    assert not torch.equal(first, second)
    # Read across the border of two epochs, in one call.
    assert torch.equal(order.contexts(390, 20), torch.cat([first[390:], second[:10]]))


def test_a_block_holds_exactly_the_activations_of_its_contexts(stream, model):
    dealt = torch.cat([stream.batch(i) for i in range(4)])
    contexts = stream.order.contexts(0, 8)
    wanted = model(contexts, stop_at_hook=HOOK).flatten(0, 1)
    assert torch.equal(dealt.sort(0).values, wanted.sort(0).values)
    assert not torch.equal(dealt, wanted)


def test_a_batch_mixes_contexts(stream, model):
    contexts = model(stream.order.contexts(0, 8), stop_at_hook=HOOK)
    batch = stream.batch(0)
    from_context = [(context[:, None] == batch).all(-1).any(0).sum().item() for context in contexts]
    assert sum(count > 0 for count in from_context) >= 6


def test_the_order_is_a_function_of_the_seed_and_not_of_the_history(stream, model, tokens):
    other = ActivationStream(model, tokens, batch_size=24, seed=3, block_size=96)
    assert torch.equal(other.batch(9), list(stream.batches(10))[9])
    assert not torch.equal(ActivationStream(model, tokens, 24, seed=4, block_size=96).batch(0), stream.batch(0))


def test_elsewhere_is_another_order_of_the_same_text(stream):
    elsewhere = stream.elsewhere(100)
    assert torch.equal(elsewhere.batch(0), stream.elsewhere(100).batch(0))
    assert not torch.equal(elsewhere.batch(0), stream.batch(0))
    assert not torch.equal(elsewhere.batch(0), stream.elsewhere(200).batch(0))


def test_the_block_bounds_the_memory(stream):
    stream.batch(0)
    assert stream._block.shape == (96, 32)


def test_a_corpus_shorter_than_a_context_is_named(tokens):
    with pytest.raises(BookError, match="less than one context of 5000"):
        ContextOrder(tokens, 5000, 0)


def test_seeded_depends_on_every_number():
    draws = {torch.rand((), generator=seeded(*numbers)).item() for numbers in ((0,), (1,), (0, 1), (1, 0), (0, 0, 1))}
    assert len(draws) == 5
