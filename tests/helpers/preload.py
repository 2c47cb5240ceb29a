"""What the server of forks imports, for all of them; looking for garbage meanwhile would take time and find none."""

import gc
from importlib import import_module

gc.disable()
for name in (
    "lagkit.runs.experiment",
    "tests.helpers.lms",
    "transformers.models.llama.modeling_llama",
    "pyarrow.parquet",
):
    import_module(name)
gc.freeze()  # nor is it looked for in each fork
gc.enable()
