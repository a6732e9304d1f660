import dataclasses

import numpy as np
import pytest
import torch

from varigrad.lab.batches import Batches, Normaliser, crop_and_flip
from varigrad.lab.data import Data, Split


def made(count: int = 50, shape: tuple[int, ...] = (3, 6, 5)) -> Data:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.arange(count))
    return Data(split, split, split, mean=(120.0, 110.0, 100.0), std=(60.0, 70.0, 80.0))


@pytest.mark.parametrize("pad", [0, 2])
def test_starting_anywhere_is_like_having_walked_there(pad: int) -> None:
    walked = Batches(made(), 8, seed=3, pad=pad)
    for step in range(20):  # six steps an epoch: over three epochs
        images, labels = walked[step]
        fresh_images, fresh_labels = Batches(made(), 8, seed=3, pad=pad)[step]
        assert torch.equal(labels, fresh_labels)
        assert torch.equal(images, fresh_images)


def test_an_epoch_takes_every_image_at_most_once() -> None:
    batches = Batches(made(), 8, seed=0)
    assert batches.per_epoch == 6
    epochs = [torch.cat([batches[6 * epoch + step][1] for step in range(6)]).tolist() for epoch in range(3)]
    assert all(len(set(epoch)) == 48 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert set().union(*epochs) == set(range(50))  # what one epoch leaves out another takes


def test_labels_stay_with_their_images() -> None:
    data = made()
    images, labels = Batches(data, 8, seed=0)[11]
    assert torch.equal(images, Normaliser(data)(data.train.images[labels]))


def test_the_seed_decides_the_order_and_the_global_generator_does_not() -> None:
    torch.manual_seed(1)
    first = Batches(made(), 8, seed=0, pad=1)[0]
    torch.manual_seed(2)
    state = torch.get_rng_state()
    same = Batches(made(), 8, seed=0, pad=1)[0]
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first[0], same[0])
    assert not torch.equal(first[1], Batches(made(), 8, seed=1)[0][1])


def test_augmentation_does_not_change_the_order() -> None:
    plain, augmented = Batches(made(), 8, seed=0)[4], Batches(made(), 8, seed=0, pad=2)[4]
    assert torch.equal(plain[1], augmented[1])
    assert not torch.equal(plain[0], augmented[0])


def test_augmentation_is_new_in_every_epoch() -> None:
    data = made(count=8)
    batches = Batches(data, 8, seed=0, pad=2)
    first, second = ({int(label): image for image, label in zip(*batches[step], strict=True)} for step in range(2))
    assert sum(torch.equal(first[label], second[label]) for label in first) <= 2


def test_fewer_images_than_a_batch() -> None:
    images, labels = Batches(made(count=5), 8, seed=0)[7]
    assert sorted(labels.tolist()) == [0, 1, 2, 3, 4]
    assert images.shape == (5, 3, 6, 5)


def test_normaliser() -> None:
    data = made()
    images = data.train.images
    expected = (images.numpy().astype(np.float64) - np.array(data.mean)[:, None, None]) / np.array(data.std)[
        :, None, None
    ]
    np.testing.assert_allclose(Normaliser(data)(images).numpy(), expected, atol=1e-6)
    assert Normaliser(dataclasses.replace(data, mean=(0.0,), std=(1.0,)))(images).dtype == torch.float32


def test_crop_and_flip_against_a_loop_over_the_images() -> None:
    images, pad, seed = made().train.images, 3, 5
    count, _, height, width = images.shape
    generator = torch.Generator().manual_seed(seed)
    top = torch.randint(2 * pad + 1, (count, 1), generator=generator)
    left = torch.randint(2 * pad + 1, (count, 1), generator=generator)
    mirrored = torch.randint(2, (count, 1), generator=generator, dtype=torch.bool)
    result = crop_and_flip(images, pad, torch.Generator().manual_seed(seed))
    for row, image in enumerate(images.numpy()):
        padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
        crop = padded[:, top[row] : top[row] + height, left[row] : left[row] + width]
        np.testing.assert_array_equal(result[row].numpy(), crop[:, :, ::-1] if mirrored[row] else crop)
    assert 0 < mirrored.sum() < count
    assert top.min() == left.min() == 0
    assert top.max() == left.max() == 2 * pad


def test_crop_and_flip_without_padding_only_mirrors() -> None:
    images = made().train.images
    result = crop_and_flip(images, 0, torch.Generator().manual_seed(0))
    same = (result == images).flatten(1).all(1)
    mirrored = (result == images.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 10 < same.sum() < 40
