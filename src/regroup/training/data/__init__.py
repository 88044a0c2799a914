"""Data: `load_data` gives a `DataSet`, `Loader` its batches.

>>> data = load_data("digits")
>>> data.shape, len(data.classes), len(data.train), len(data.test)
((1, 8, 8), 10, 1438, 359)

A file of this package that adds to `data_sets` adds a data set; so does an entry point of another package
in the group `regroup.data_sets`.
"""

from regroup.training.data.augmentation import Augmentation as Augmentation
from regroup.training.data.dataset import DataSet as DataSet
from regroup.training.data.dataset import Split as Split
from regroup.training.data.dataset import TensorSplit as TensorSplit
from regroup.training.data.loader import Batch as Batch
from regroup.training.data.loader import Loader as Loader
from regroup.training.data.sources import data_sets as data_sets
from regroup.training.data.sources import from_anywhere as from_anywhere
from regroup.training.data.sources import load_data as load_data
