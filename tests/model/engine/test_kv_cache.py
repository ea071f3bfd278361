import torch

from model.engine.kv_cache import KVCache


def filled() -> KVCache:
    cache = KVCache(2, 2, 4, torch.float32)
    cache.add_rows([3, 5], 8)
    for layer in range(2):
        k = torch.randn(2, 2, 5, 4, generator=torch.Generator().manual_seed(layer))
        cache.write_prompt(layer, 0, k, -k)
    return cache


def read(cache: KVCache, layer: int, row: int) -> torch.Tensor:
    return cache._store[layer, 0, row, :, : cache.lengths[row]].clone()


def test_growing_keeps_what_is_stored():
    cache = filled()
    before = [read(cache, 1, row) for row in range(2)]
    cache.reserve(9, 300)
    assert all(torch.equal(read(cache, 1, row), before[row]) for row in range(2))


def test_dropping_a_row_moves_the_last_one_into_its_place():
    """Catches a finished row taking its neighbour's keys with it."""
    cache = filled()
    kept = read(cache, 0, 1)
    cache.drop_row(0)
    assert cache.lengths == [5]
    assert torch.equal(read(cache, 0, 0), kept)
    cache.drop_row(0)
    assert cache.lengths == []


def test_bytes_per_token_is_two_tensors_of_every_layer():
    assert KVCache(3, 2, 8, torch.bfloat16).bytes_per_token == 2 * 3 * 2 * 8 * 2
