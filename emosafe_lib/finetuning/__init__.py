"""Light training: the plan of a run, its network, its objective, the Trainer, and the probe that it has to beat.

Notebook 04 calls it, and `emosafe train` for models that need several processes. bitsandbytes is tried before anything
here imports peft, which would take a broken one with it, and print what that prints.
"""

from emosafe_lib.models.precision import no_bitsandbytes

no_bitsandbytes()
