"""Data: sets through TFDS, step-addressed batch order, augmentation inside the program."""

from jopt.data.batches import augment as augment
from jopt.data.batches import indices as indices
from jopt.data.batches import steps_per_epoch as steps_per_epoch
from jopt.data.cache import DataError as DataError
from jopt.data.config import DataConfig as DataConfig
from jopt.data.config import Synthetic as Synthetic
from jopt.data.config import directory as directory
from jopt.data.config import validate as validate
from jopt.data.dataset import Arrays as Arrays
from jopt.data.dataset import Dataset as Dataset
from jopt.data.dataset import device_arrays as device_arrays
from jopt.data.dataset import load as load
from jopt.data.dataset import normalize as normalize
from jopt.data.outline import Outline as Outline
from jopt.data.outline import outline as outline
from jopt.data.source import LabelError as LabelError
from jopt.data.source import Split as Split
from jopt.data.source import check_labels as check_labels
