from trainables.seed import derive_seed


def test_derived_seeds_differ_in_every_part_and_fit_63_bits() -> None:
    seeds = {
        derive_seed(seed, purpose, epoch)
        for seed in (0, 1, 10, 2**62)
        for purpose in ("shuffling", "dropout")
        for epoch in range(12)
    }
    assert len(seeds) == 4 * 2 * 12
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_derived_seeds_are_the_same_in_every_version_and_process() -> None:
    assert derive_seed(0, "shuffling", 1) == 1595542553827874528
