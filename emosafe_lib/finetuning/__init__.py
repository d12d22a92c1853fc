"""Light training: the plan of a run, its network, its objective, the Trainer, and the probe that it has to beat.

Notebook 04 calls it, and `emosafe train` for models that need several processes. peft is imported here, before anything
else does it, since it would import bitsandbytes as well.
"""

from emosafe_lib.models.quantization import spare_bitsandbytes

spare_bitsandbytes()
