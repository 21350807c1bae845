"""Data sets for semantic segmentation: three benchmarks, a drawn one, and folders of one's own.

```python
from keras_fsa.datasets import describe, load
from keras_fsa.datasets.augment import training_batches

train = load("voc_aug", "train_aug", data_dir="data", manual_dir="archives")
batches = training_batches(train, crop=(512, 512), batch=16, seed=0, base_size=(2048, 512))
colours = describe("voc_aug").palette
```

`folder_dataset` gives the same kind of data set from two folders. `python -m keras_fsa.datasets
check` looks through a data set before an expensive training. Importing this package registers its
builders with TensorFlow Datasets, so that `tfds.load("signal_harbor")` works, too.
"""

from keras_fsa.datasets.ade20k import Ade20k as Ade20k
from keras_fsa.datasets.folder import folder_dataset as folder_dataset
from keras_fsa.datasets.registry import describe as describe
from keras_fsa.datasets.registry import load as load
from keras_fsa.datasets.signal_harbor import SignalHarbor as SignalHarbor
from keras_fsa.datasets.voc_aug import VocAug as VocAug
