import dataclasses
import io
import os
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from varigrad.lab.data import CIFAR10, CIFAR100, MNIST, Digits, Split, held_out
from varigrad.lab.errors import LabError
from varigrad.lab.parquet import load_table

from .made_data import cifar10_folder, mnist_folder, pixels, png, write_table

real_data = pytest.mark.skipif("VARIGRAD_DATA" not in os.environ, reason="needs the folder VARIGRAD_DATA")


def test_digits() -> None:
    data = Digits().load(None)
    assert [len(data.train), len(data.validation), len(data.test)] == [1000, 297, 500]
    images = torch.cat([data.train.images, data.validation.images, data.test.images])
    assert images.dtype == torch.uint8
    assert images.shape == (1797, 1, 8, 8)
    assert len({image.numpy().tobytes() for image in images}) == 1797  # the three parts share no image
    assert abs(images.float().mean().item() - data.mean[0]) < 0.01
    assert abs(images.float().std().item() - data.std[0]) < 0.01


def test_what_is_held_out_depends_on_the_size_only() -> None:
    split = Split(torch.arange(20), torch.arange(20))
    torch.manual_seed(1)
    first = held_out(split, 5)
    torch.manual_seed(2)
    second = held_out(split, 5)
    assert torch.equal(first[1].labels, second[1].labels)
    assert sorted([*first[0].labels.tolist(), *first[1].labels.tolist()]) == list(range(20))
    assert first[1].labels.tolist() != sorted(first[1].labels.tolist())


def test_every_pixel_arrives(tmp_path: Path) -> None:
    images, labels = load_table(MNIST.table, "train", mnist_folder(tmp_path))
    assert torch.equal(images[:, 0], torch.from_numpy(pixels(48, (28, 28), seed=0)))
    assert labels.tolist() == [row % 10 for row in range(48)]
    images, labels = load_table(CIFAR10.table, "test", cifar10_folder(tmp_path))
    assert torch.equal(images.permute(0, 2, 3, 1), torch.from_numpy(pixels(10, (32, 32, 3), seed=1)))
    assert labels.dtype == torch.int64


def test_validation_is_held_out_of_the_training_part(tmp_path: Path) -> None:
    data = MNIST.load(mnist_folder(tmp_path))
    assert [len(data.train), len(data.validation), len(data.test)] == [44, 4, 12]
    assert MNIST.load(tmp_path) is data  # decoded once


def test_several_files_are_one_table_and_a_missing_one_is_missed(tmp_path: Path) -> None:
    folder = tmp_path / "ylecun" / "mnist"
    for index in range(2):
        images = [png(image) for image in pixels(3, (28, 28), seed=index)]
        write_table(folder / f"train-0000{index}-of-00002.parquet", images, [index] * 3)
    assert load_table(MNIST.table, "train", tmp_path)[1].tolist() == [0, 0, 0, 1, 1, 1]
    (folder / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(LabError, match=r"1 of 2 train files of ylecun/mnist in"):
        load_table(MNIST.table, "train", tmp_path)


def test_a_folder_without_the_data(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"no train data of ylecun/mnist in .*train-00000-of-00001.parquet.*--data-dir"):
        MNIST.load(tmp_path)
    assert MNIST.whereabouts(tmp_path).startswith("missing")
    mnist_folder(tmp_path)
    assert MNIST.whereabouts(tmp_path).startswith("at hand")


def test_a_truncated_file(tmp_path: Path) -> None:
    path = mnist_folder(tmp_path) / "ylecun" / "mnist" / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(LabError, match=r"cannot read .*train-00000-of-00001.parquet") as caught:
        load_table(MNIST.table, "train", tmp_path)
    assert "\n" not in str(caught.value)


def _table(tmp_path: Path, images: list[bytes], labels: list[int], **columns: str) -> Path:
    write_table(tmp_path / "ylecun" / "mnist" / "test-00000-of-00001.parquet", images, labels, **columns)
    return tmp_path


def test_what_the_table_should_hold(tmp_path: Path) -> None:
    good = png(pixels(1, (28, 28), 0)[0])
    jpeg = io.BytesIO()
    Image.fromarray(pixels(1, (28, 28), 0)[0]).save(jpeg, format="JPEG")
    wrong = {
        "expected columns image .* and label .*, found img, label": ([good], [1], {"image": "img"}),
        "label runs from 0 to 10, expected 0 to 9": ([good, good], [0, 10], {}),
        "label runs from -1 to 3": ([good, good], [-1, 3], {}),
        "image 1 is damaged": ([good, good[:60]], [0, 1], {}),
        "image 0 is damaged": ([jpeg.getvalue()], [0], {}),
        "image 1 is L 8x8, expected L 28x28": ([good, png(pixels(1, (8, 8), 0)[0])], [0, 1], {}),
        "image 0 is RGB 28x28, expected L 28x28": ([png(pixels(1, (28, 28, 3), 0)[0])], [0], {}),
        "no rows": ([], [], {}),
    }
    for message, (images, labels, columns) in wrong.items():
        folder = _table(tmp_path, images, labels, **columns)
        with pytest.raises(LabError, match=f"test-00000-of-00001.parquet.*{message}"):
            load_table(MNIST.table, "test", folder)


def test_columns_of_the_wrong_kind(tmp_path: Path) -> None:
    path = tmp_path / "ylecun" / "mnist" / "test-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    for columns in (
        {"image": ["a"], "label": [1]},
        {"image": [{"bytes": b"", "path": ""}], "label": ["one"]},
        {"image": [{"bytes": b"", "path": ""}], "label": [None]},
        {"image": [{"path": ""}], "label": [1]},
    ):
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
        with pytest.raises(LabError, match=r"expected columns image \(structs of bytes, path\) and label \(integers\)"):
            load_table(MNIST.table, "test", tmp_path)


def test_the_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def unreachable(*args: object, **options: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(LabError, match=r"cannot get ylecun/mnist from the hub .*no route to host.*--data-dir"):
        load_table(MNIST.table, "train", None)


def test_the_hub_within_reach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    path = mnist_folder(tmp_path) / "ylecun" / "mnist" / "test-00000-of-00001.parquet"
    asked = []

    def load(hub_id: str, split: str) -> object:
        asked.append((hub_id, split))
        return datasets.Dataset(pyarrow.parquet.read_table(path))

    monkeypatch.setattr(datasets, "load_dataset", load)
    images, _ = load_table(MNIST.table, "test", None)
    assert asked == [("ylecun/mnist", "test")]
    assert torch.equal(images[:, 0], torch.from_numpy(pixels(12, (28, 28), seed=1)))


@real_data
@pytest.mark.parametrize(
    ("image_set", "sizes", "classes"),
    [(MNIST, [55000, 5000, 10000], 10), (CIFAR10, [45000, 5000, 10000], 10), (CIFAR100, [45000, 5000, 10000], 100)],
    ids=["mnist", "cifar10", "cifar100"],
)
def test_real_data(image_set: object, sizes: list[int], classes: int) -> None:
    data = image_set.load(Path(os.environ["VARIGRAD_DATA"]))
    assert [len(data.train), len(data.validation), len(data.test)] == sizes
    assert np.unique(data.test.labels.numpy()).tolist() == list(range(classes))
    sample = data.train.images[::20].float()
    assert torch.allclose(sample.mean((0, 2, 3)), torch.tensor(data.mean), atol=2.0)
    assert torch.allclose(sample.std((0, 2, 3)), torch.tensor(data.std), atol=2.0)


def test_too_few_to_hold_some_out(tmp_path: Path) -> None:
    folder = mnist_folder(tmp_path, train=3)
    with pytest.raises(LabError, match="3 training images are too few"):
        dataclasses.replace(MNIST).load(folder)
