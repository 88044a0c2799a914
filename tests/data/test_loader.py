import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regroup.errors import ConfigError, DataError
from regroup.training.data import Augmentation, DataSet, Loader, Split, TensorSplit


def _data(train=37, test=11, shape=(3, 8, 8), augmentation=None) -> DataSet:
    def split(count):
        pixels = torch.randint(0, 256, (count, *shape), dtype=torch.uint8)
        pixels.view(count, -1)[:, 0] = torch.arange(count) % 256
        return TensorSplit(pixels, torch.arange(count) % 3)

    halves, augmentation = (0.5,) * shape[0], augmentation or Augmentation()
    return DataSet(
        "made",
        ("a", "b", "c"),
        shape,
        split(train),
        split(test),
        halves,
        halves,
        augmentation or Augmentation(),
    )


class FromFiles(Split):
    """Stands for images in files: not in memory, so that workers are used."""

    def __init__(self, split: Split, broken: int | None = None, deadly: int | None = None) -> None:
        self.labels, self.shape, self._split = split.labels, split.shape, split
        self._broken, self._deadly = broken, deadly

    def fetch(self, indices):
        if self._broken in indices.tolist():
            raise DataError(f"{self._broken}.png", "is empty (0 bytes)")
        if self._deadly in indices.tolist():
            import os

            os._exit(9)
        return self._split.fetch(indices)

    def name(self, index):
        return f"{index}.png"


def _equal(batches, others) -> bool:
    return len(batches) == len(others) and all(
        all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        for a, b in zip(batches, others, strict=True)
    )


counts = st.integers(3, 60)


@settings(max_examples=60, deadline=None)
@given(counts, st.integers(1, 20), st.integers(1, 3), st.integers(0, 3), st.integers(-3, 3))
def test_processes_together_see_each_image_at_most_once_and_drop_only_the_tail(n, size, world, epoch, seed):
    data = _data(train=n)
    loaders = [Loader(data, size, seed=seed, rank=rank, world=world) for rank in range(world)]
    seen = [[batch.indices for batch in loader.batches(epoch)] for loader in loaders]
    assert len({len(batches) for batches in seen}) == 1  # no process waits for another for ever
    assert len(seen[0]) == len(loaders[0]) > 0
    indices = torch.cat([torch.cat(batches) for batches in seen])
    assert len(indices.unique()) == len(indices) == len(loaders[0]) * loaders[0].step
    assert n - len(indices) < loaders[0].step


@settings(max_examples=60, deadline=None)
@given(counts, st.integers(1, 20), st.integers(1, 4))
def test_every_test_image_is_measured_once_whatever_the_processes(n, size, world):
    data = _data(test=n)
    loaders = [Loader(data, size, train=False, rank=rank, world=world) for rank in range(world)]
    indices = torch.cat([batch.indices for loader in loaders for batch in loader])
    assert indices.sort().values.tolist() == list(range(n))
    assert max(len(list(loader)) for loader in loaders) == len(loaders[0])


@settings(max_examples=40, deadline=None)
@given(counts, st.integers(1, 9), st.integers(0, 60), st.integers(0, 5))
def test_any_start_continues_the_epoch_at_exactly_that_image(n, size, start, epoch):
    loader = Loader(_data(train=n), size)
    order = loader.order(epoch)
    resumed = [batch.indices for batch in loader.batches(epoch, start)]
    expected = order[start:][: len(resumed) * loader.step]
    assert torch.equal(torch.cat([*resumed, torch.tensor([], dtype=torch.int64)]), expected)
    assert max(n - start, 0) - len(expected) < loader.step


def test_two_processes_share_the_steps_of_one_with_twice_the_batch():
    data = _data()
    one = list(Loader(data, 8, seed=3).batches(1))
    two = [list(Loader(data, 4, seed=3, rank=rank, world=2).batches(1)) for rank in (0, 1)]
    for whole, *parts in zip(one, *two, strict=True):
        assert torch.equal(whole.indices, torch.cat([part.indices for part in parts]))
        assert torch.equal(whole.images, torch.cat([part.images for part in parts]))


def test_epochs_and_seeds_differ_in_order():
    loader, other = Loader(_data(), 4), Loader(_data(), 4, seed=1)
    assert not torch.equal(loader.order(0), loader.order(1))
    assert not torch.equal(loader.order(0), other.order(0))


def test_the_order_of_an_epoch_stays_what_it_always_was():
    assert Loader(_data(train=10), 2, seed=7).order(3).tolist() == [1, 8, 7, 4, 2, 6, 0, 9, 5, 3]


def test_pixels_are_normalised_by_mean_and_deviation():
    data = _data()
    batch = next(iter(Loader(data, 11, train=False)))
    expected = (data.test.fetch(batch.indices).double() / 255 - 0.5) / 0.5
    # two roundings to float32 of terms no larger than 2
    assert (batch.images.double() - expected).abs().max() <= 4 * torch.finfo(torch.float32).eps
    assert torch.equal(batch.labels, data.test.labels[batch.indices])


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation("affine", erase=0.5),
        Augmentation("crop", flip=0.5, mixup=0.4, cutmix=1.0),
        Augmentation("timm", flip=0.5, auto="rand-m9-mstd0.5-inc1", color_jitter=0.4, erase=0.5),
    ],
    ids=lambda a: a.kind,
)
def test_workers_and_resuming_change_no_bit(augmentation):
    data = _data(augmentation=augmentation)
    data = DataSet(**{**vars(data), "train": FromFiles(data.train)})
    here = list(Loader(data, 6, seed=2).batches(5))
    state = torch.get_rng_state()
    workers = list(Loader(data, 6, seed=2, workers=2).batches(5))
    assert torch.equal(state, torch.get_rng_state())
    assert _equal(here, workers)
    assert _equal(here[2:], list(Loader(data, 6, seed=2).batches(5, start=12)))
    assert not _equal(here, list(Loader(data, 6, seed=2).batches(6)))


def test_an_augmented_image_does_not_depend_on_its_batch():
    data = _data(augmentation=Augmentation("affine", flip=0.5))
    small = {int(i): x for b in Loader(data, 3).batches(1) for i, x in zip(b.indices, b.images, strict=True)}
    large = {int(i): x for b in Loader(data, 12).batches(1) for i, x in zip(b.indices, b.images, strict=True)}
    assert all(torch.equal(small[i], large[i]) for i in small.keys() & large.keys())


def test_grey_images_pass_through_timms_policies():
    data = _data(shape=(1, 8, 8), augmentation=Augmentation("timm", auto="rand-m9-mstd0.5-inc1"))
    assert next(Loader(data, 8).batches()).images.shape == (8, 1, 8, 8)


def test_test_images_are_never_varied():
    data = _data(augmentation=Augmentation("affine", flip=1, mixup=1))
    batch = next(iter(Loader(data, 11, train=False, augmentation=Augmentation("crop"))))
    assert torch.equal(((batch.images * 0.5 + 0.5) * 255).round().byte(), data.test.fetch(batch.indices))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_named(workers):
    data = _data()
    data = DataSet(**{**vars(data), "test": FromFiles(data.test, broken=5)})
    with pytest.raises(DataError, match=r"5\.png: is empty"):
        list(Loader(data, 2, train=False, workers=workers))


def test_a_worker_that_dies_names_the_images_it_may_have_died_of():
    data = _data()
    data = DataSet(**{**vars(data), "test": FromFiles(data.test, deadly=0)})
    with pytest.raises(DataError, match=r"0\.png, 1\.png: a worker process died or hung"):
        list(Loader(data, 2, train=False, workers=1))


def test_fewer_images_than_a_batch_still_make_one():
    loader = Loader(_data(train=5), 64)
    assert (loader.step, len(loader), len(next(loader.batches()).labels)) == (5, 1, 5)


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 4, "rank": 2, "world": 2}, "rank"),
        ({"batch_size": 4, "workers": -1}, "workers"),
        ({"batch_size": 4, "world": 38}, "world"),
    ],
)
def test_impossible_options_are_named(options, parameter):
    with pytest.raises(ConfigError) as error:
        Loader(_data(), **options)
    assert error.value.parameter == parameter


def test_timm_cannot_vary_images_of_two_channels():
    with pytest.raises(ConfigError, match="1 or 3 channels"):
        Loader(_data(shape=(2, 8, 8)), 4, augmentation=Augmentation("timm"))


@pytest.mark.parametrize("which", ["train", "test"])
def test_an_empty_split_is_an_error(which):
    data = _data()
    empty = TensorSplit(torch.empty(0, 3, 8, 8, dtype=torch.uint8), torch.empty(0))
    with pytest.raises(DataError, match=f"{which} split has no images"):
        DataSet(**{**vars(data), which: empty})


def test_one_class_is_an_error():
    with pytest.raises(DataError, match="one class only"):
        DataSet(**{**vars(_data()), "classes": ("cat",)})


def test_a_split_is_a_data_set_of_torch():
    split = _data().train
    image, label = split[-1]
    assert image.shape == (3, 8, 8) and image.dtype == torch.uint8 and label == int(split.labels[-1])
    assert np.array_equal(np.asarray(split.picture(4)), split[4][0].permute(1, 2, 0))
    with pytest.raises(IndexError):
        split[37]
