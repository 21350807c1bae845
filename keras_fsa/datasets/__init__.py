"""Data sets that are registered with TensorFlow Datasets when this package is imported.

```python
import keras_fsa.datasets
import tensorflow_datasets as tfds

train = tfds.load("signal_harbor", split="train", as_supervised=True)
```
"""

from keras_fsa.datasets.signal_harbor import SignalHarbor as SignalHarbor
