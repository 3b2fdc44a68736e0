"""Strict JAX for every test: no silent promotion, several virtual devices, one compilation cache."""

import gc

import jax

from jopt.train.compilation import enable_cache

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)

# Many tests compile the same small programs: in several workers, and again on the next day.
enable_cache()

# Traces make many objects and little rubbish: a tenth of the time went into looking for it.
gc.set_threshold(50_000, 20, 20)

# Doctests are looked for in every file; two conftest.py cannot both be imported as a module of that name.
collect_ignore_glob = ["conftest.py", "*/conftest.py"]
