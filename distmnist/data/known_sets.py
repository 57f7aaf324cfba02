"""The table of known data sets: where torchvision keeps them, what they must contain, and what describes them.

A set is added here: an entry whose key is in `config.KNOWN_DATA`. `known.load` reads it if it is made of IDX files with
ten classes, as MNIST is, or if its class in torchvision has CIFAR10's attributes data, targets and classes.
"""

import dataclasses
from collections.abc import Mapping

from distmnist.data.dataset import DIGITS, MNIST_MEAN, MNIST_STD, Duplicates
from distmnist.data.idx import IdxFile
from distmnist.errors import UsageError

NO_DUPLICATES = Duplicates()


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnownSet:
    """name: in summaries and checkpoints; title: in messages; class_names: in the order of the labels; mean, std: of
    the training pixels scaled to 0..1, per channel, as they are commonly published; stratified: see `Dataset`.

    torchvision: the class in torchvision.datasets; folder: where the files lie below the data directory, in
    torchvision's layout; archive: what torchvision leaves beside that folder; files: by name, with None for those that
    torchvision reads, and verifies before that. All of them are empty for the sample, which comes with distmnist.

    digest, duplicates: as `known.examined` finds them, so that a start need not; None: it has to.
    """

    name: str
    title: str
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    torchvision: str = ""
    folder: str = ""
    archive: str = ""
    files: Mapping[str, IdxFile | None] = dataclasses.field(default_factory=dict)
    stratified: bool = True
    digest: str | None = None
    duplicates: Duplicates | None = None

    @property
    def idx_files(self) -> dict[str, IdxFile]:
        """Those of `files` that are IDX files: all of them, or none."""
        return {name: file for name, file in self.files.items() if file}

    def on_disk(self, name: str) -> str:
        """What the file that `files` calls `name` is called when it is downloaded."""
        file = self.files[name]
        return f"{name}.gz" if file and file.packed else name


TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
"""The files of MNIST, and of every set that was made to replace it."""


def like_mnist(*md5: str, packed: bool = False) -> dict[str, IdxFile]:
    """The four files: 60,000 images to train on and 10,000 to test on, with their labels. md5: in the same order."""
    shapes = {
        TRAIN_IMAGES: (60_000, 28, 28),
        TRAIN_LABELS: (60_000,),
        TEST_IMAGES: (10_000, 28, 28),
        TEST_LABELS: (10_000,),
    }
    return {name: IdxFile(shape, one, packed) for (name, shape), one in zip(shapes.items(), md5, strict=True)}


CIFAR100_NAMES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle"
    " caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant"
    " flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man"
    " maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree"
    " plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper"
    " snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train"
    " trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)

KNOWN_SETS: dict[str, KnownSet] = {
    # Y. LeCun, C. Cortes, C. J. C. Burges: The MNIST database of handwritten digits
    "mnist": KnownSet(
        name="mnist",
        title="MNIST",
        class_names=DIGITS,
        mean=MNIST_MEAN,
        std=MNIST_STD,
        torchvision="MNIST",
        folder="MNIST/raw",
        files=like_mnist(
            "6bbc9ace898e44ae57da46a324031adb",
            "a25bea736e30d166cdddb491f175f624",
            "2646ac647ad5339dbf082846283269ea",
            "27ae3e4e09519cfbb04c329615203637",
        ),
        stratified=False,
        digest="4a885112ed70b775268c9db1c3efcedfc33b851af34119bb9eb662585cb47847",
        duplicates=NO_DUPLICATES,
    ),
    # H. Xiao, K. Rasul, R. Vollgraf: Fashion-MNIST, arXiv:1708.07747; names as in torchvision
    "fashion-mnist": KnownSet(
        name="fashion-mnist",
        title="Fashion-MNIST",
        class_names=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        mean=(0.2860,),
        std=(0.3530,),
        torchvision="FashionMNIST",
        folder="FashionMNIST/raw",
        files=like_mnist(
            "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "9018921c3c673c538a1fc5bad174d6f9",
            "8181f5470baa50b63fa0f6fddb340f0a",
            "15d484375f8d13e6eb1aabb0c3f46965",
        ),
        digest="dd592e2f2891e09adb8f55ee5d863f871a9fa90f1ef0519f013c91b3b2bca508",
        duplicates=NO_DUPLICATES,
    ),
    # T. Clanuwat et al.: Deep Learning for Classical Japanese Literature, arXiv:1812.01718; names, and the MD5 of the
    # .gz files, as in torchvision. Those of the unpacked files are not published: unpacked files are not taken.
    "kmnist": KnownSet(
        name="kmnist",
        title="KMNIST",
        class_names=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        mean=(0.1918,),
        std=(0.3483,),
        torchvision="KMNIST",
        folder="KMNIST/raw",
        files=like_mnist(
            "bdb82020997e1d708af4cf47b453dcf7",
            "e144d726b3acfaa3e44228e80efcd344",
            "5c965bf0a639b31b8f53240b1b52f4d7",
            "7320c461ea6c1c855c0b718fb2a4b134",
            packed=True,
        ),
    ),
    # A. Krizhevsky: Learning Multiple Layers of Features from Tiny Images, 2009; https://www.cs.toronto.edu/~kriz/cifar
    "cifar10": KnownSet(
        name="cifar10",
        title="CIFAR-10",
        class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        torchvision="CIFAR10",
        folder="cifar-10-batches-py",
        archive="cifar-10-python.tar.gz",
        files=dict.fromkeys([*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"]),
    ),
    "cifar100": KnownSet(
        name="cifar100",
        title="CIFAR-100",
        class_names=tuple(CIFAR100_NAMES.split()),
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        torchvision="CIFAR100",
        folder="cifar-100-python",
        archive="cifar-100-python.tar.gz",
        files=dict.fromkeys(["train", "test", "meta"]),
    ),
    # 5,000 digits of MNIST's training set: see sample.md
    "sample": KnownSet(
        name="mnist-sample",
        title="the sample of MNIST",
        class_names=DIGITS,
        mean=MNIST_MEAN,
        std=MNIST_STD,
        stratified=False,
        digest="5f7873e65df31574c0cef6c848f7261430ce31a5788689f5d7cd795aabc40ffa",
        duplicates=NO_DUPLICATES,
    ),
}
"""Value of --data -> the data set."""

NAMES = {option: each.name for option, each in KNOWN_SETS.items()}
"""Value of --data -> name of the data set, in summaries and checkpoints."""


def known_set(option: str) -> KnownSet:
    """The data set that this value of --data names. Raises UsageError: none of them."""
    if option not in KNOWN_SETS:
        raise UsageError(f"the data set {option!r} is unknown; choose from {', '.join(KNOWN_SETS)}")
    return KNOWN_SETS[option]


def option_of(name: str) -> str:
    """The value of --data for the data set called `name` in a run. Raises UsageError: there is none."""
    for option, known in NAMES.items():
        if known == name:
            return option
    raise UsageError(f"the data set {name!r} is unknown; this distmnist has {', '.join(NAMES.values())}")
